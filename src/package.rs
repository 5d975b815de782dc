//! The package that a directory belongs to: the nearest `package.json` or `Cargo.toml`, from the directory up to the workspace, that has a
//! name.

use std::path::Path;

use crate::config::pattern::matches;

/// The name of the package that `dir` belongs to, if one of `patterns` (globs) matches it. A directory with both files has two names.
pub fn excluded(dir: &Path, workspace: &Path, patterns: &[String]) -> Option<String> {
    if patterns.is_empty() {
        return None;
    }
    let is_match = |name: &String| patterns.iter().any(|pattern| matches(pattern.as_bytes(), name.as_bytes()));
    let within = dir.ancestors().take_while(|dir| dir.starts_with(workspace));
    let nearest = within.map(names).find(|names| !names.is_empty())?;
    nearest.into_iter().find(is_match)
}

/// What `package.json` and `Cargo.toml` of a directory call themselves. A file that cannot be read, or has no name (a workspace's
/// `Cargo.toml`, a `package.json` that only sets a type), names nothing.
fn names(dir: &Path) -> Vec<String> {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).ok();
    let npm = read("package.json").and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let npm = npm.and_then(|package| package.get("name")?.as_str().map(str::to_owned));
    let cargo = read("Cargo.toml").and_then(|text| text.parse::<toml::Table>().ok());
    let cargo = cargo.and_then(|manifest| manifest.get("package")?.get("name")?.as_str().map(str::to_owned));
    npm.into_iter().chain(cargo).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_nearest_name_decides() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        let write = |path: &str, text: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
        };
        write("ws/package.json", r#"{ "name": "@acme/root" }"#);
        write("ws/packages/a/package.json", r#"{ "name": "@acme/a" }"#);
        write("ws/packages/a/dist/package.json", r#"{ "type": "module" }"#);
        write("ws/crates/b/Cargo.toml", "[package]\nname = \"b\"\n");
        write("ws/crates/Cargo.toml", "[workspace]\n");
        write("ws/broken/package.json", "{");
        write("package.json", r#"{ "name": "above" }"#);
        let ws = root.join("ws");
        let found = |dir: &str, patterns: &[&str]| {
            let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            excluded(&ws.join(dir), &ws, &patterns)
        };
        assert_eq!(found("packages/a", &["@acme/a"]).as_deref(), Some("@acme/a"));
        assert_eq!(found("packages/a/dist", &["@acme/*"]).as_deref(), Some("@acme/a"));
        assert_eq!(found("packages/a", &["@acme/root"]), None, "not the nearest");
        assert_eq!(found("crates", &["@acme/r*"]).as_deref(), Some("@acme/root"));
        assert_eq!(found("crates/b/src", &["x", "b"]).as_deref(), Some("b"));
        assert_eq!(found("broken", &["@acme/root"]).as_deref(), Some("@acme/root"));
        assert_eq!(found("", &["above"]), None, "not above the workspace");
        assert_eq!(found("packages/a", &[]), None);
    }
}
