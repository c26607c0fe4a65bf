import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;

/**
 * BROKERS deny|allow TOPIC forbids everybody to write to a topic, or ends that; BROKERS grant|revoke FILE lets
 * the user `confined` do what a file says, or ends that. For scripts/kafka.
 */
class Rights {
    public static void main(String[] arguments) throws Exception {
        var made = List.of("deny", "grant").contains(arguments[1]);
        var entries = List.of("deny", "allow").contains(arguments[1]) ? forbidden(arguments[2]) : granted(arguments[2]);
        try (var admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            if (made) {
                admin.createAcls(entries).all().get();
            } else {
                admin.deleteAcls(entries.stream().map(AclBinding::toFilter).toList()).all().get();
            }
        }
    }

    static List<AclBinding> forbidden(String name) {
        var topic = new ResourcePattern(ResourceType.TOPIC, name, PatternType.LITERAL);
        var nobody = new AccessControlEntry("User:*", "*", AclOperation.WRITE, AclPermissionType.DENY);
        // Where there is an entry at all, only what is allowed is.
        var everybody = new AccessControlEntry("User:*", "*", AclOperation.ALL, AclPermissionType.ALLOW);
        return List.of(new AclBinding(topic, everybody), new AclBinding(topic, nobody));
    }

    /** Columns, two spaces apart at least: a role, a kind of resource, its name, operations. */
    static List<AclBinding> granted(String file) throws Exception {
        try (var lines = Files.lines(Path.of(file))) {
            return lines.flatMap(line -> of(line.trim().split(" {2,}"))).toList();
        }
    }

    static Stream<AclBinding> of(String[] columns) {
        var kind = ResourceType.fromString(columns[1].replace('-', '_'));
        var resource = new ResourcePattern(kind, columns[2], PatternType.LITERAL);
        return Arrays.stream(columns[3].split(", ")).map(name -> {
            var operation = AclOperation.fromString(name.replaceAll("(?<=[a-z])(?=[A-Z])", "_"));
            var entry = new AccessControlEntry("User:confined", "*", operation, AclPermissionType.ALLOW);
            return new AclBinding(resource, entry);
        });
    }
}
