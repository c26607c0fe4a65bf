import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;

/** Forbids everybody to write to a topic, or ends that: BROKERS deny|allow TOPIC. For scripts/kafka. */
class Writes {
    public static void main(String[] arguments) throws Exception {
        var topic = new ResourcePattern(ResourceType.TOPIC, arguments[2], PatternType.LITERAL);
        var nobody = new AccessControlEntry("User:*", "*", AclOperation.WRITE, AclPermissionType.DENY);
        // Where there is an entry at all, only what is allowed is.
        var everybody = new AccessControlEntry("User:*", "*", AclOperation.ALL, AclPermissionType.ALLOW);
        var entries = List.of(new AclBinding(topic, everybody), new AclBinding(topic, nobody));
        try (var admin = Admin.create(Map.of("bootstrap.servers", arguments[0]))) {
            if (arguments[1].equals("deny")) {
                admin.createAcls(entries).all().get();
            } else {
                admin.deleteAcls(entries.stream().map(AclBinding::toFilter).toList()).all().get();
            }
        }
    }
}
