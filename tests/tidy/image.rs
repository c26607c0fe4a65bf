//! That the Dockerfile fits the sources and the program, as far as that shows without a container engine: each of
//! these would otherwise come to light only where somebody builds or starts the image.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::source::{self, Source};

/// The libraries of `gcr.io/distroless/cc-debian13` that matter here: those of Debian's libc6, libssl3t64, libgcc-s1,
/// libstdc++6 and libgomp1 (base/config.bzl and cc/config.bzl of <https://github.com/GoogleContainerTools/distroless>).
const LIBRARIES: [&str; 8] = ["ld-linux", "libc", "libm", "libssl", "libcrypto", "libgcc_s", "libstdc++", "libgomp"];
/// Linked on a developer's machine, and a part of the program in the image by this variable of the build.
const STATIC: (&str, &str) = ("libz", "LIBZ_SYS_STATIC=1");

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn file(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).expect("it is part of the repository")
}

fn toml(path: &str) -> toml::Table {
    file(path).parse().expect("it is TOML")
}

/// What the Dockerfile copies from the repository, each to where it is in the repository.
fn copied() -> BTreeSet<PathBuf> {
    let dockerfile = file("Dockerfile");
    let lines = dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--"));
    lines
        .flat_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (to, from) = words.split_last().expect("COPY says where to");
            assert!(*to == "./" || from == [*to], "COPY {line}: elsewhere than in the repository");
            from.iter().map(PathBuf::from).collect::<Vec<_>>()
        })
        .collect()
}

/// What a build of the program reads besides its sources.
fn read_by_the_build() -> BTreeSet<PathBuf> {
    let cargo = toml("Cargo.toml");
    // Cargo wants every target that Cargo.toml names to be there, built or not.
    let benches = cargo["bench"].as_array().expect("there are benchmarks").iter();
    let benches = benches.map(|bench| format!("benches/{}.rs", bench["name"].as_str().expect("it has a name")));
    let sources = source::all().into_iter().filter(|source| source.path.starts_with("src/"));
    let files = sources.flat_map(|source| {
        let included = included(&source);
        std::iter::once(PathBuf::from(source.path)).chain(included)
    });
    let fixed = ["Cargo.toml", "Cargo.lock"].map(PathBuf::from);
    files.chain(benches.map(PathBuf::from)).chain(fixed).collect()
}

/// The files that a source takes into the program, from the root of the repository.
fn included(source: &Source) -> Vec<PathBuf> {
    let product: String = source.text.chars().take(source.product().chars().count()).collect();
    let folder = Path::new(&source.path).parent().expect("it is a file");
    let calls = ["include_str!(", "include_bytes!("].into_iter().flat_map(|call| product.split(call).skip(1));
    calls.map(|rest| straight(&folder.join(rest.split('"').nth(1).expect("it names a file")))).collect()
}

/// A path without `..`.
fn straight(path: &Path) -> PathBuf {
    let mut way = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(way.pop(), "{} leaves the repository", path.display()),
            part => way.push(part),
        }
    }
    way
}

fn missing<'a>(needed: &'a BTreeSet<PathBuf>, copied: &BTreeSet<PathBuf>) -> Vec<&'a Path> {
    needed.iter().map(PathBuf::as_path).filter(|path| !path.ancestors().any(|above| copied.contains(above))).collect()
}

#[test]
fn the_image_is_built_of_all_that_the_build_reads() {
    let (needed, copied) = (read_by_the_build(), copied());
    assert_eq!(missing(&needed, &copied), Vec::<&Path>::new(), "Dockerfile: COPY lacks them");
    for path in &copied {
        assert!(root().join(path).exists(), "Dockerfile: there is no {}", path.display());
        let fewer: BTreeSet<PathBuf> = copied.iter().filter(|other| *other != path).cloned().collect();
        assert!(!missing(&needed, &fewer).is_empty(), "Dockerfile: nothing reads {}", path.display());
    }
    let ignored = file(".dockerignore");
    let let_through: BTreeSet<PathBuf> =
        ignored.lines().filter_map(|l| l.strip_prefix('!')).map(PathBuf::from).collect();
    assert_eq!(let_through, copied, ".dockerignore lets through what the Dockerfile copies");
}

/// The builder's image has a toolchain, and with `rust-toolchain.toml` beside the sources rustup would fetch another.
#[test]
fn the_image_is_built_with_the_compiler_that_the_repository_names() {
    let toolchain = toml("rust-toolchain.toml");
    let version = toolchain["toolchain"]["channel"].as_str().expect("it names a version");
    assert!(file("Dockerfile").contains(&format!("\nFROM rust:{version}-slim-trixie AS build\n")), "not {version}");
}

#[test]
fn the_program_links_to_nothing_that_the_image_lacks() {
    let program = env!("CARGO_BIN_EXE_seriatim");
    let told = Command::new("readelf").args(["-d", program]).output().expect("binutils come with the C compiler");
    let told = String::from_utf8(told.stdout).expect("it is text");
    let needed: Vec<&str> = told
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split(['[', ']']).nth(1))
        .collect();
    assert!(needed.iter().any(|library| library.starts_with("libc.so")), "{told}");
    let dockerfile = file("Dockerfile");
    let is_there = |library: &str| {
        let name = library.split(".so").next().unwrap_or(library);
        let name = if name.starts_with("ld-linux") { "ld-linux" } else { name };
        LIBRARIES.contains(&name) || (name == STATIC.0 && dockerfile.contains(STATIC.1))
    };
    let lacking: Vec<&&str> = needed.iter().filter(|library| !is_there(library)).collect();
    assert!(lacking.is_empty(), "the image has no {lacking:?}");
}
