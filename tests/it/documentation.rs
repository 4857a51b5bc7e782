//! The README tells the truth.

use std::{collections::BTreeSet, fs, path::Path};

use high_templar::config::VARIABLES;

fn readme() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap()
}

#[test]
fn the_table_of_variables_is_the_code() {
    let readme = readme();
    let told: BTreeSet<&str> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    assert_eq!(told, VARIABLES.iter().copied().collect::<BTreeSet<_>>());
}

#[test]
fn the_defaults_in_the_table_are_the_code() {
    let rows: Vec<(String, String)> = readme()
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
            Some((cells.next()?, cells.next()?))
        })
        .collect();
    let default = |name: &str| rows.iter().find(|(row, _)| row == name).map(|(_, default)| default.clone());
    let needed = [("API_URL", "http://a/"), ("CHANNELSTREAM_SECRET", "0123456789abcdef")];
    let needed = needed.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let plain = high_templar::config::from_vars(needed.clone().into_iter()).unwrap();
    // Giving every default of the table is the same as giving none.
    let given = rows
        .iter()
        .filter(|(name, value)| {
            VARIABLES.contains(&name.as_str()) && !value.is_empty() && !value.starts_with(['(', '—'])
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .chain(needed);
    let given = high_templar::config::from_vars(given).unwrap();
    assert_eq!(format!("{plain:?}"), format!("{given:?}"));
    for name in ["LISTEN", "IDLE_TIMEOUT", "PING_INTERVAL", "OUTBOX_LIMIT", "MESSAGE_LIMIT", "DRAIN", "API_TIMEOUT"] {
        assert!(default(name).is_some_and(|default| !default.is_empty()), "{name}");
    }
}

#[test]
fn every_relative_link_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = readme();
    let links = readme.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
    for link in links.filter(|link| !link.starts_with("http") && !link.starts_with('#')) {
        assert!(root.join(link.split('#').next().unwrap_or(link)).exists(), "{link}");
    }
}

#[test]
fn every_claim_about_security_has_its_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = readme();
    let (_, section) = readme.split_once("\n## Security\n").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let claims = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| claim"));
    let mut count = 0;
    for claim in claims {
        let (_, tests) = claim.trim_end_matches(" |").rsplit_once(" | ").unwrap();
        for name in tests.split(", ") {
            let (file, test) = name.trim_matches('`').split_once("::").unwrap_or_else(|| panic!("{name}"));
            let path = if file.ends_with(".rs") { file.to_owned() } else { format!("tests/it/{file}.rs") };
            let text = fs::read_to_string(root.join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
            assert!(text.contains(&format!("fn {test}(")), "{name} is not there");
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}
