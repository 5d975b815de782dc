//! Finding and reading the configuration, weakest source first, each overwriting what is set so far.
//!
//! A mistake is an error, never ignored: a misspelt key that does nothing costs hours. It names the file, the line where that is
//! known, the key, and the nearest key there is.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;

use super::document::{self, Field, Node, Value};
use super::keys::{Config, Origin, Sourced, Task, TaskEnv};
use super::{suggest, units};
use crate::workspace::CONFIG_NAMES;

/// The keys at the top of a file. `$schema` is for editors.
pub(super) const TOP: [&str; 16] = [
    "cache_dir",
    "max_size",
    "max_age",
    "verify_integrity",
    "exclude_packages",
    "cache_failures",
    "scope",
    "detect",
    "own",
    "canonical_root",
    "env",
    "ignore",
    "scratch",
    "transport",
    "task",
    "$schema",
];
/// The keys of an `env` table.
pub(super) const ENV: [&str; 3] = ["mode", "pass", "include"];
/// The keys of a `[[task]]` table.
pub(super) const TASK: [&str; 9] =
    ["match", "cache", "scope", "detect", "own", "cache_failures", "env", "input", "output"];

/// The variables: which key each one sets, in the table `env` or at the top.
pub const VARIABLES: [(&str, &str, bool); 17] = [
    ("WINK_CACHE_DIR", "cache_dir", false),
    ("WINK_MAX_SIZE", "max_size", false),
    ("WINK_MAX_AGE", "max_age", false),
    ("WINK_VERIFY_INTEGRITY", "verify_integrity", false),
    ("WINK_EXCLUDE_PACKAGES", "exclude_packages", false),
    ("WINK_CACHE_FAILURES", "cache_failures", false),
    ("WINK_SCOPE", "scope", false),
    ("WINK_DETECT", "detect", false),
    ("WINK_OWN", "own", false),
    ("WINK_CANONICAL_ROOT", "canonical_root", false),
    ("WINK_ENV_MODE", "mode", true),
    ("WINK_ENV_PASS", "pass", true),
    ("WINK_ENV_INCLUDE", "include", true),
    ("WINK_IGNORE", "ignore", false),
    ("WINK_SCRATCH", "scratch", false),
    ("WINK_TRANSPORT", "transport", false),
    ("WINK_TASK", "task", false),
];

impl Config {
    /// Reads everything that configures a workspace (`environment`: the variables of this process).
    pub fn load(
        workspace: &Path,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> anyhow::Result<Config> {
        let environment: Vec<(OsString, OsString)> = environment.into_iter().collect();
        let variable = |name: &str| {
            let found = environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str());
            found.filter(|value| !value.is_empty())
        };
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME");
        let below_home = |name: &str| home.as_deref().map(|home| home.join(name));

        let mut config = Config::default();
        config.cache_dir.value =
            absolute("XDG_CACHE_HOME").or_else(|| below_home(".cache")).map(|caches| caches.join("wink"));

        let user = match variable("WINK_CONFIG") {
            Some(path) => Some(PathBuf::from(path)),
            None => match absolute("XDG_CONFIG_HOME").or_else(|| below_home(".config")) {
                Some(dir) => the_one(&dir.join("wink"), ["config.toml", "config.json"])?,
                None => None,
            },
        };
        if let Some(path) = user {
            read_file(&mut config, &path, Origin::User(path.clone()), home.as_deref())?;
        }
        if let Some(path) = the_one(workspace, CONFIG_NAMES)? {
            read_file(&mut config, &path, Origin::Workspace(path.clone()), home.as_deref())?;
        }
        for (name, key, in_env) in VARIABLES {
            if let Some(value) = environment.iter().find(|(key, _)| key == name).map(|(_, value)| value) {
                read_variable(&mut config, (name, key, in_env), value, home.as_deref())?;
            }
        }
        config.notices = misspelt(environment.iter().map(|(name, _)| name.as_os_str()));
        Ok(config)
    }
}

/// The one of two files that exists.
fn the_one(dir: &Path, names: [&str; 2]) -> anyhow::Result<Option<PathBuf>> {
    let found: Vec<PathBuf> = names.iter().map(|name| dir.join(name)).filter(|path| path.is_file()).collect();
    match found.as_slice() {
        [first, second] => {
            bail!("there are both {} and {}; keep one of them", first.display(), second.display())
        }
        [one] => Ok(Some(one.clone())),
        _ => Ok(None),
    }
}

fn read_file(config: &mut Config, path: &Path, origin: Origin, home: Option<&Path>) -> anyhow::Result<()> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {}", path.display()))?;
    let is_json = path.extension() == Some(OsStr::new("json"));
    let fields = if is_json { document::json(&text) } else { document::toml(&text) };
    let base = std::path::absolute(path).ok().and_then(|path| path.parent().map(Path::to_owned));
    let reader = Reader { place: path.display().to_string(), origin, base: base.unwrap_or_default(), home };
    let fields = fields.or_else(|error| reader.fail(error.line, format!("this is not valid: {}", error.message)))?;
    reader.top(config, &fields)
}

fn read_variable(
    config: &mut Config,
    (name, key, in_env): (&str, &str, bool),
    value: &OsStr,
    home: Option<&Path>,
) -> anyhow::Result<()> {
    const LISTS: [&str; 5] = ["exclude_packages", "pass", "include", "ignore", "scratch"];
    let origin = Origin::Environment(name.to_owned());
    let reader = Reader { place: name.to_owned(), origin, base: std::env::current_dir().unwrap_or_default(), home };
    let Some(text) = value.to_str() else {
        return reader.fail(None, "the value is not valid UTF-8".to_owned());
    };
    let value = if LISTS.contains(&key) {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        Value::List(items.map(|item| Node { value: Value::Text(item.to_owned()), line: None }).collect())
    } else if text.is_empty() {
        // A variable set to nothing is how shells unset one for a single command.
        return Ok(());
    } else if key == "task" {
        match document::json_node(text) {
            Ok(node) => node.value,
            Err(error) => {
                return reader.fail(None, format!("this is not a JSON list of task tables: {error}"));
            }
        }
    } else {
        Value::Text(text.to_owned())
    };
    let field = Field { key: key.to_owned(), node: Node { value, line: None } };
    if in_env { reader.env(config, &[field]) } else { reader.top(config, &[field]) }
}

/// Variables of wink's own that are no keys: where the user's file is, and what `wink sh` goes by.
const OTHER_VARIABLES: [&str; 5] =
    ["WINK_CONFIG", "WINK_SHELL", "WINK_SHELL_CACHE", "WINK_SHELL_STDIN", "WINK_SHELL_LINES"];

/// Whether an environment variable is one of the configuration.
pub fn is_variable(name: &str) -> bool {
    OTHER_VARIABLES.contains(&name) || VARIABLES.iter().any(|(known, ..)| *known == name)
}

/// `WINK_…` variables that are probably typos. Not an error: other programs may have variables of such names.
fn misspelt<'a>(names: impl Iterator<Item = &'a OsStr>) -> Vec<String> {
    let known: Vec<&str> = VARIABLES.iter().map(|(name, ..)| *name).chain(OTHER_VARIABLES).collect();
    names
        .filter_map(OsStr::to_str)
        .filter(|name| name.starts_with("WINK_") && !known.contains(name))
        .filter_map(|name| {
            suggest::nearest(name, &known).map(|near| format!("{name} is not used; did you mean {near}?"))
        })
        .collect()
}

/// One source being read.
struct Reader<'a> {
    /// How errors call it.
    place: String,
    origin: Origin,
    /// Where relative paths start.
    base: PathBuf,
    home: Option<&'a Path>,
}

impl Reader<'_> {
    fn fail<T>(&self, line: Option<usize>, message: String) -> anyhow::Result<T> {
        match line {
            Some(line) => bail!("{}:{line}: {message}", self.place),
            None => bail!("{}: {message}", self.place),
        }
    }

    fn wrong<T>(&self, key: &str, node: &Node, wanted: &str) -> anyhow::Result<T> {
        self.fail(node.line, format!("\"{key}\" must be {wanted}, not {}", node.value.kind()))
    }

    fn sourced<T>(&self, value: T) -> Sourced<T> {
        Sourced { value, origin: self.origin.clone() }
    }

    /// The keys of a table in snake_case, each known and given once.
    fn keys<'f>(
        &self,
        fields: &'f [Field],
        known: &'static [&'static str],
    ) -> anyhow::Result<Vec<(&'static str, &'f Node)>> {
        let mut seen = BTreeSet::new();
        let mut keys = Vec::with_capacity(fields.len());
        for Field { key, node } in fields {
            let snake = snake_case(key);
            let Some(found) = known.iter().find(|known| **known == snake) else {
                return self.fail(node.line, format!("unknown key \"{key}\"; {}", suggest::hint(key, known)));
            };
            if !seen.insert(*found) {
                return self.fail(node.line, format!("\"{key}\" is given twice, once in another spelling"));
            }
            keys.push((*found, node));
        }
        Ok(keys)
    }

    fn top(&self, config: &mut Config, fields: &[Field]) -> anyhow::Result<()> {
        for (key, node) in self.keys(fields, &TOP)? {
            match key {
                "cache_dir" => config.cache_dir = self.sourced(Some(self.path(key, node)?)),
                "max_size" => config.max_size = self.sourced(self.size(key, node)?),
                "max_age" => config.max_age = self.sourced(self.age(key, node)?),
                "verify_integrity" => config.verify_integrity = self.sourced(self.flag(key, node)?),
                "exclude_packages" => config.exclude_packages = self.sourced(self.texts(key, node)?),
                "cache_failures" => config.cache_failures = self.sourced(self.flag(key, node)?),
                "scope" => config.scope = self.sourced(self.word(key, node)?),
                "detect" => config.detect = self.sourced(self.word(key, node)?),
                "own" => config.own = self.sourced(self.word(key, node)?),
                "canonical_root" => {
                    let text = self.text(key, node)?;
                    if !text.starts_with('/') || text == "/" {
                        return self
                            .fail(node.line, format!("\"{key}\" must be an absolute path below /, such as \"/w\""));
                    }
                    config.canonical_root = self.sourced(Some(PathBuf::from(text)));
                }
                "env" => self.env(config, self.table(key, node)?)?,
                "ignore" => config.ignore = self.sourced(self.texts(key, node)?),
                "scratch" => config.scratch = self.sourced(self.texts(key, node)?),
                "transport" => config.transport = self.sourced(self.word(key, node)?),
                "task" => {
                    let Value::List(tables) = &node.value else {
                        return self.wrong(key, node, "a list of tables ([[task]])");
                    };
                    for table in tables {
                        let task = self.task(table)?;
                        config.tasks.push(self.sourced(task));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn env(&self, config: &mut Config, fields: &[Field]) -> anyhow::Result<()> {
        let TaskEnv { mode, pass, include } = self.env_table(fields)?;
        if let Some(mode) = mode {
            config.env_mode = self.sourced(mode);
        }
        if let Some(pass) = pass {
            config.env_pass = self.sourced(pass);
        }
        if let Some(include) = include {
            config.env_include = self.sourced(include);
        }
        Ok(())
    }

    fn env_table(&self, fields: &[Field]) -> anyhow::Result<TaskEnv> {
        let mut env = TaskEnv::default();
        for (key, node) in self.keys(fields, &ENV)? {
            match key {
                "mode" => env.mode = Some(self.word(key, node)?),
                "pass" => env.pass = Some(self.texts(key, node)?),
                _ => env.include = Some(self.texts(key, node)?),
            }
        }
        Ok(env)
    }

    fn task(&self, node: &Node) -> anyhow::Result<Task> {
        let (mut task, mut pattern) = (Task::default(), None);
        for (key, node) in self.keys(self.table("task", node)?, &TASK)? {
            match key {
                "match" => pattern = Some(self.text(key, node)?),
                "scope" => task.scope = Some(self.word(key, node)?),
                "detect" => task.detect = Some(self.word(key, node)?),
                "own" => task.own = Some(self.word(key, node)?),
                "cache" => task.cache = Some(self.flag(key, node)?),
                "cache_failures" => task.cache_failures = Some(self.flag(key, node)?),
                "env" => task.env = self.env_table(self.table(key, node)?)?,
                "input" => task.input = Some(self.texts(key, node)?),
                _ => task.output = Some(self.texts(key, node)?),
            }
        }
        match pattern {
            Some(pattern) => Ok(Task { pattern, ..task }),
            None => self.fail(node.line, "a task table needs \"match\", for example match = \"npm run *\"".to_owned()),
        }
    }

    fn table<'n>(&self, key: &str, node: &'n Node) -> anyhow::Result<&'n [Field]> {
        match &node.value {
            Value::Table(fields) => Ok(fields),
            _ => self.wrong(key, node, "a table"),
        }
    }

    fn text(&self, key: &str, node: &Node) -> anyhow::Result<String> {
        match &node.value {
            Value::Text(text) => Ok(text.clone()),
            _ => self.wrong(key, node, "a text in quotes"),
        }
    }

    fn texts(&self, key: &str, node: &Node) -> anyhow::Result<Vec<String>> {
        match &node.value {
            Value::List(items) => items.iter().map(|item| self.text(key, item)).collect(),
            Value::Text(text) => Ok(vec![text.clone()]),
            _ => self.wrong(key, node, "a list of texts"),
        }
    }

    fn flag(&self, key: &str, node: &Node) -> anyhow::Result<bool> {
        match (&node.value, &self.origin) {
            (Value::Bool(flag), _) => Ok(*flag),
            (Value::Text(text), Origin::Environment(_)) => match text.to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => Ok(true),
                "0" | "false" | "no" | "off" => Ok(false),
                _ => self.fail(None, format!("\"{text}\" is neither true nor false")),
            },
            _ => self.wrong(key, node, "true or false"),
        }
    }

    fn word<T: ValueEnum>(&self, key: &str, node: &Node) -> anyhow::Result<T> {
        let text = self.text(key, node)?;
        T::from_str(&text, false).or_else(|_| {
            let names: Vec<_> = T::value_variants().iter().filter_map(|word| word.to_possible_value()).collect();
            let names: Vec<&str> = names.iter().map(|word| word.get_name()).collect();
            self.fail(node.line, format!("\"{key}\" cannot be \"{text}\"; {}", suggest::hint(&text, &names)))
        })
    }

    fn size(&self, key: &str, node: &Node) -> anyhow::Result<Option<units::Size>> {
        match &node.value {
            Value::Number(bytes) if *bytes >= 0 => Ok(Some(units::Size::Bytes(bytes.unsigned_abs()))),
            Value::Text(text) => units::size(text).or_else(|error| self.fail(node.line, format!("\"{key}\": {error}"))),
            _ => self.wrong(key, node, "a size such as \"10GB\""),
        }
    }

    fn age(&self, key: &str, node: &Node) -> anyhow::Result<Option<std::time::Duration>> {
        match &node.value {
            Value::Text(text) => {
                units::duration(text).or_else(|error| self.fail(node.line, format!("\"{key}\": {error}")))
            }
            _ => self.wrong(key, node, "a duration such as \"30d\""),
        }
    }

    fn path(&self, key: &str, node: &Node) -> anyhow::Result<PathBuf> {
        let text = self.text(key, node)?;
        match (text.strip_prefix("~/"), self.home) {
            _ if text.is_empty() => self.fail(node.line, format!("\"{key}\" must not be empty")),
            (Some(rest), Some(home)) => Ok(home.join(rest)),
            (Some(_), None) => self.fail(node.line, format!("\"{key}\" starts with ~, but HOME is not set")),
            (None, _) => Ok(self.base.join(text)),
        }
    }
}

/// `cacheDir` → `cache_dir`; what is not camelCase stays as it is.
fn snake_case(key: &str) -> String {
    let mut snake = String::with_capacity(key.len() + 4);
    for (at, letter) in key.char_indices() {
        if letter.is_ascii_uppercase() && at > 0 {
            snake.push('_');
            snake.push(letter.to_ascii_lowercase());
        } else {
            snake.push(letter);
        }
    }
    snake
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
