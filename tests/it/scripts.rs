//! The scripts work on machines where something else is set than here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use high_templar::config::VARIABLES;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a test's script sees after it has sourced `tests/environment`, with `set` on the machine.
fn seen(set: &[(&str, &str)], command: &str) -> String {
    let script = format!("set -euo pipefail; cd tests/it; source ../environment; {command}");
    let output = Command::new("bash")
        .args(["-c", &script])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(set.iter().copied())
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_is_set_on_a_machine_changes_no_test() {
    let others = ["RUST_LOG", "CDPATH", "PYTHONPATH", "NODE_OPTIONS", "RABBITMQ_NODENAME", "ERL_FLAGS", "DEBUG"];
    let set: Vec<_> = VARIABLES.iter().chain(&others).map(|name| (*name, "set")).collect();
    let left = seen(&set, "env");
    let is_left = |name: &str| left.lines().any(|line| line.split('=').next() == Some(name));
    let disturbing: Vec<_> = set.iter().map(|(name, _)| *name).filter(|name| is_left(name)).collect();
    assert_eq!(disturbing, Vec::<&str>::new());
    for kept in ["HTTP_PROXY", "CARGO_HOME", "RUSTUP_TOOLCHAIN", "TEST_AMQP_URL", "CHROMIUM"] {
        assert!(seen(&[(kept, "kept")], "env").contains(&format!("\n{kept}=kept\n")), "{kept}");
    }
}

#[test]
fn tests_reach_this_machine_without_a_proxy() {
    for (set, expected) in
        [(&[][..], "localhost,127.0.0.1,::1"), (&[("NO_PROXY", "a.b")], "localhost,127.0.0.1,::1,a.b")]
    {
        assert_eq!(seen(set, "printf %s \"$NO_PROXY\""), expected);
    }
}

#[test]
fn a_target_directory_is_meant_from_where_a_script_is_started() {
    let folder = seen(&[("CARGO_TARGET_DIR", "somewhere")], "cd ..; printf %s \"$CARGO_TARGET_DIR\"");
    assert_eq!(Path::new(&folder), root().join("tests/it/somewhere"));
}

/// Cargo says where it builds, which `CARGO_TARGET_DIR` and its configuration decide.
#[test]
fn no_script_expects_the_program_in_a_fixed_place() {
    let scripts = [
        "test",
        "run",
        "fuzz/run",
        "clients/js/run-tests",
        "clients/js/test/support/server.js",
        "tests/browser/run",
        "tests/install/check",
        "examples/chat/run",
        "examples/multichat/run",
        "benches/compare",
        "benches/crowd",
        "benches/storm",
        "benches/rig.py",
    ];
    for script in scripts {
        let text = fs::read_to_string(root().join(script)).unwrap_or_else(|error| panic!("{script}: {error}"));
        for fixed in ["target/debug", "target/release", "-target}/", "$target/release"] {
            assert!(!text.contains(fixed), "{script} looks for {fixed}");
        }
    }
}

/// The output of a program that must succeed.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_list_of_parts_and_the_notices_hold_all_that_is_linked() {
    let tree = ["tree", "--locked", "--edges=normal", "--prefix=none", "--target=x86_64-unknown-linux-gnu"];
    let linked: BTreeSet<String> = output(env!("CARGO"), &tree)
        .lines()
        .filter_map(|line| line.split_once(" v"))
        .map(|(name, rest)| format!("{name} {}", rest.split(' ').next().unwrap_or_default()))
        .filter(|name| !name.starts_with("high-templar "))
        .collect();
    assert!(linked.len() > 100, "{}", linked.len());

    let notices = fs::read_to_string(root().join("THIRD-PARTY")).unwrap();
    let noted: BTreeSet<_> = notices.lines().filter_map(|line| line.split_once(", ")).map(|(name, _)| name).collect();
    let missing: Vec<_> = linked.iter().filter(|name| !noted.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?}");

    let parts: Value = serde_json::from_str(&output("python3", &["-B", "supply-chain/sbom"])).unwrap();
    let components = parts["components"].as_array().unwrap();
    let text = |component: &Value, key: &str| component[key].as_str().unwrap().to_owned();
    let required: BTreeSet<_> = components
        .iter()
        .filter(|component| component["scope"] == "required")
        .map(|component| format!("{} {}", text(component, "name"), text(component, "version")))
        .collect();
    assert_eq!(required, linked);
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let by_ref: BTreeMap<_, _> = components.iter().map(|component| (text(component, "bom-ref"), component)).collect();
    for component in components {
        let checksum = component["hashes"][0]["content"].as_str().unwrap();
        let (name, version) = (text(component, "name"), text(component, "version"));
        let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        let (_, entry) = lock.split_once(&entry).unwrap_or_else(|| panic!("{name} {version}"));
        let (entry, _) = entry.split_once("\n\n").unwrap_or((entry, ""));
        assert!(entry.contains(checksum), "{name} {version}");
    }
    for dependency in parts["dependencies"].as_array().unwrap() {
        for needed in dependency["dependsOn"].as_array().unwrap() {
            assert!(by_ref.contains_key(needed.as_str().unwrap()), "{needed}");
        }
    }
}
