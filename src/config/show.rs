//! What `wink config show` prints: every key, its value, and where the value came from.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::keys::{Config, Origin, Sourced};
use super::units::{self, Size};

/// One line of the output.
struct Row<'a> {
    key: &'static str,
    value: Value,
    origin: &'a Origin,
}

impl Config {
    /// Every key with its value and origin, for people.
    pub fn show(&self) -> String {
        let rows = self.rows();
        let texts: Vec<String> = rows.iter().map(|row| format!("{} = {}", row.key, row.value)).collect();
        // One endless value must not push all origins off the screen.
        const WIDEST: usize = 60;
        let width = texts.iter().map(|text| text.chars().count()).filter(|width| *width <= WIDEST).max().unwrap_or(0);
        let mut out = String::new();
        for (row, text) in rows.iter().zip(&texts) {
            let _ = writeln!(out, "{text:width$}  # {}", row.origin);
        }
        out
    }

    /// Every key with its value and origin: `{key: {value, origin}}`, `task` a list of such pairs.
    pub fn show_json(&self) -> Value {
        let pair = |row: Row<'_>| (row.key, json!({ "value": row.value, "origin": row.origin.to_string() }));
        let mut object = serde_json::Map::new();
        let mut tasks = Vec::new();
        for (key, value) in self.rows().into_iter().map(pair) {
            match key {
                "task" => tasks.push(value),
                _ => _ = object.insert(key.to_owned(), value),
            }
        }
        object.insert("task".to_owned(), Value::Array(tasks));
        Value::Object(object)
    }

    fn rows(&self) -> Vec<Row<'_>> {
        fn row<'a, T>(key: &'static str, from: &'a Sourced<T>, value: impl FnOnce(&'a T) -> Value) -> Row<'a> {
            Row { key, value: value(&from.value), origin: &from.origin }
        }
        let path = |path: &Option<PathBuf>| json!(path.as_ref().map(|path| path.to_string_lossy()));
        let age = |age: &Option<Duration>| json!(age.map_or("none".to_owned(), units::spell));
        let size = |size: &Option<Size>| match size {
            None => json!("none"),
            Some(Size::Bytes(bytes)) => json!(bytes),
            Some(share) => json!(share.to_string()),
        };
        let mut rows = vec![
            row("cache_dir", &self.cache_dir, path),
            row("max_size", &self.max_size, size),
            row("max_age", &self.max_age, age),
            row("verify_integrity", &self.verify_integrity, |flag| json!(flag)),
            row("exclude_packages", &self.exclude_packages, |list| json!(list)),
            row("cache_failures", &self.cache_failures, |flag| json!(flag)),
            row("scope", &self.scope, |word| json!(word)),
            row("detect", &self.detect, |word| json!(word)),
            row("own", &self.own, |word| json!(word)),
            row("canonical_root", &self.canonical_root, path),
            row("env.mode", &self.env_mode, |word| json!(word)),
            row("env.pass", &self.env_pass, |list| json!(list)),
            row("env.include", &self.env_include, |list| json!(list)),
            row("ignore", &self.ignore, |list| json!(list)),
            row("scratch", &self.scratch, |list| json!(list)),
            row("transport", &self.transport, |word| json!(word)),
        ];
        rows.extend(self.tasks.iter().map(|task| row("task", task, |task| json!(task))));
        rows
    }

    /// Where each value came from, in the order of the rows.
    #[cfg(test)]
    pub(super) fn origins(&self) -> Vec<Origin> {
        self.rows().into_iter().map(|row| row.origin.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::Task;

    #[test]
    fn both_forms_name_the_origin() {
        let mut config = Config::default();
        config.scope.origin = Origin::Environment("WINK_SCOPE".into());
        let task = Task { pattern: "make *".into(), ..Task::default() };
        config.tasks.push(Sourced { value: task, origin: Origin::Workspace("x/wink.toml".into()) });
        let text = config.show();
        assert!(text.contains("own = \"carry\""), "{text}");
        assert!(
            text.lines().any(|line| line.starts_with("scope = \"system\" ") && line.ends_with("# WINK_SCOPE")),
            "{text}"
        );
        assert!(text.contains("task = {\"match\":\"make *\"}"), "{text}");
        let json = config.show_json();
        assert_eq!(json["scope"]["origin"], "WINK_SCOPE");
        assert_eq!(json["task"][0]["value"]["match"], "make *");
        assert_eq!(json["max_age"]["value"], "30d");
        assert_eq!(json["max_size"]["value"], 10_000_000_000u64);
    }
}
