//! Dependencies point one way: functions → `lambda` → `shared`; the domain knows no store, no clock, no network.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The members of the workspace: by name, the folder and what the crate itself, without its tests, depends on.
fn members() -> BTreeMap<String, (PathBuf, BTreeSet<String>)> {
    let arguments = ["metadata", "--no-deps", "--offline", "--format-version", "1"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(ROOT).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo answers JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    let members = packages.iter().map(|package| {
        let text = |value: &Value| value.as_str().expect("is text").to_owned();
        let dependencies = package["dependencies"].as_array().expect("has dependencies");
        let own = dependencies.iter().filter(|dependency| dependency["kind"].as_str() != Some("dev"));
        let own = own.map(|dependency| text(&dependency["name"])).collect();
        let folder =
            PathBuf::from(text(&package["manifest_path"])).parent().expect("is in a folder").to_owned();
        (text(&package["name"]), (folder, own))
    });
    members.collect()
}

/// All Rust files under a folder, with their text.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("the entry can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("the file is text");
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "no Rust in {}", folder.display());
    found
}

fn knows_lambda(dependency: &str) -> bool {
    dependency == "lambda" || dependency.starts_with("lambda_") || dependency == "aws_lambda_events"
}

#[test]
fn dependencies_point_from_functions_to_lambda_to_shared() {
    let members = members();
    let names: BTreeSet<_> = members.keys().cloned().collect();
    let ours = |name: &str| -> BTreeSet<String> { members[name].1.intersection(&names).cloned().collect() };

    assert_eq!(ours("shared"), BTreeSet::new());
    assert_eq!(ours("lambda"), BTreeSet::from(["shared".to_owned()]));
    let functions = members
        .iter()
        .filter(|(_, (folder, _))| folder.parent().is_some_and(|parent| parent.ends_with("functions")));
    let mut count = 0;
    for (name, (folder, _)) in functions {
        assert!(folder.ends_with(name), "{name} lives in {}", folder.display());
        assert_eq!(ours(name), BTreeSet::from(["lambda".to_owned(), "shared".to_owned()]), "{name}");
        count += 1;
    }
    assert_eq!(count, 10, "a function is not looked at");
    for (name, (folder, _)) in &members {
        if folder.starts_with(members["local"].0.parent().expect("is in infra")) {
            let theirs = ours(name);
            assert!(
                theirs.is_subset(&BTreeSet::from(["servers".to_owned()])),
                "{name} depends on {theirs:?}"
            );
        }
    }
}

#[test]
fn shared_knows_nothing_of_lambda() {
    let (_, dependencies) = &members()["shared"];
    let known: Vec<_> = dependencies.iter().filter(|dependency| knows_lambda(dependency)).collect();
    assert!(known.is_empty(), "shared depends on {known:?}");
}

#[test]
fn the_domain_knows_no_store_no_clock_and_no_network() {
    let src = members()["shared"].0.join("src");
    let mut files = sources(&src.join("domain"));
    files
        .push((src.join("domain.rs"), fs::read_to_string(src.join("domain.rs")).expect("the file is there")));
    let foreign = [
        "sqlx",
        "redis",
        "tokio",
        "aws_",
        "lambda",
        "futures",
        "getrandom",
        "SystemTime",
        "Instant",
        "now_utc",
        "now_v7",
        "new_v4",
        "std::env",
        "std::fs",
        // An address is data; a socket is not.
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "ToSocketAddrs",
        "async ",
        "crate::postgres",
        "crate::push",
        "crate::configuration",
        "tracing",
    ];
    for (path, text) in files {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            let found: Vec<_> = foreign.iter().filter(|name| line.contains(**name)).collect();
            assert!(found.is_empty(), "{}: {line}\nuses {found:?}", path.display());
        }
    }
}

#[test]
fn the_protocol_knows_no_store() {
    let src = members()["shared"].0.join("src");
    let mut files = sources(&src.join("protocol"));
    files.push((
        src.join("protocol.rs"),
        fs::read_to_string(src.join("protocol.rs")).expect("the file is there"),
    ));
    for (path, text) in files {
        for store in ["sqlx", "redis::", "postgres::", "postgres,", "push::"] {
            assert!(!text.contains(store), "{} uses {store}", path.display());
        }
    }
}

#[test]
fn all_sql_is_in_one_folder_and_checked_against_the_schema() {
    for (name, (folder, dependencies)) in members() {
        let is_function = folder.parent().is_some_and(|parent| parent.ends_with("functions"));
        assert!(!is_function || !dependencies.contains("sqlx"), "{name} depends on sqlx");
    }
    let src = members()["shared"].0.join("src");
    let postgres = src.join("postgres");
    for (path, text) in sources(&src) {
        if path.starts_with(&postgres) || path == src.join("postgres.rs") {
            for unchecked in [
                "sqlx::query(",
                "sqlx::query_as(",
                "sqlx::query_scalar(",
                "query_unchecked!",
                "AssertSqlSafe",
            ] {
                assert!(!text.contains(unchecked), "{}: {unchecked} is not checked", path.display());
            }
        } else {
            assert!(!text.contains("sqlx::query"), "{} holds SQL", path.display());
        }
    }
}
