//! Tests of reading the configuration.

use std::fs;

use super::*;
use crate::config::{EnvMode, Own, Scope};

/// A workspace and a home with these files; `$` in their names and contents is nothing special.
struct Place {
    temp: tempfile::TempDir,
    variables: Vec<(OsString, OsString)>,
}

impl Place {
    fn new() -> Place {
        let temp = tempfile::tempdir().unwrap();
        for dir in ["ws", "home/.config/wink"] {
            fs::create_dir_all(temp.path().join(dir)).unwrap();
        }
        let home = temp.path().join("home");
        Place { variables: vec![("HOME".into(), home.into())], temp }
    }

    fn file(self, name: &str, text: &str) -> Place {
        fs::write(self.temp.path().join(name), text).unwrap();
        self
    }

    fn set(mut self, name: &str, value: &str) -> Place {
        self.variables.push((name.into(), value.into()));
        self
    }

    fn load(&self) -> anyhow::Result<Config> {
        Config::load(&self.temp.path().join("ws"), self.variables.clone())
    }

    fn error(&self) -> String {
        self.load().unwrap_err().to_string()
    }
}

#[test]
fn nothing_configured() {
    let place = Place::new();
    let config = place.load().unwrap();
    assert_eq!(config.store_dir().unwrap(), place.temp.path().join("home/.cache/wink"));
    assert_eq!(config.max_size.value, Some(units::Size::Bytes(10_000_000_000)));
    assert_eq!((config.scope.value, config.own.value), (Scope::System, Own::Carry));
    let bare = Config::load(&place.temp.path().join("ws"), []).unwrap();
    assert!(bare.store_dir().unwrap_err().to_string().contains("WINK_CACHE_DIR"));
}

#[test]
fn strength_rises_from_user_over_workspace_to_variables() {
    let place = Place::new()
        .file(
            "home/.config/wink/config.toml",
            "own = \"hide\"\nscope = \"workspace\"\ncache_failures = true\nmax_age = \"12h\"",
        )
        .file("ws/wink.json", "{\"$schema\": \"x\", \"own\": \"observe\", \"cacheFailures\": false, \"maxSize\": 1000}")
        .set("WINK_OWN", "carry")
        .set("WINK_SCOPE", "");
    let config = place.load().unwrap();
    assert_eq!(config.own.value, Own::Carry);
    assert_eq!(config.own.origin.to_string(), "WINK_OWN");
    assert_eq!(config.scope.value, Scope::Workspace);
    assert!(config.scope.origin.to_string().ends_with("config.toml"));
    assert!(!config.cache_failures.value);
    assert_eq!(config.max_size.value, Some(units::Size::Bytes(1000)));
    assert_eq!(config.max_age.value, Some(std::time::Duration::from_secs(43_200)));
}

#[test]
fn every_variable_works() {
    let place = Place::new()
        .set("WINK_CACHE_DIR", "/c")
        .set("WINK_MAX_SIZE", "none")
        .set("WINK_MAX_AGE", "2w")
        .set("WINK_VERIFY_INTEGRITY", "1")
        .set("WINK_EXCLUDE_PACKAGES", "a,b")
        .set("WINK_CACHE_FAILURES", "yes")
        .set("WINK_SCOPE", "workspace")
        .set("WINK_OWN", "hide")
        .set("WINK_DETECT", "auto")
        .set("WINK_CANONICAL_ROOT", "/w")
        .set("WINK_ENV_MODE", "strict")
        .set("WINK_ENV_PASS", "A, B_*")
        .set("WINK_ENV_INCLUDE", "C")
        .set("WINK_IGNORE", "*.log")
        .set("WINK_SCRATCH", "~/.x")
        .set("WINK_TRANSPORT", "classic")
        .set("WINK_TASK", "[{\"match\": \"make*\", \"cacheFailures\": false}]");
    let config = place.load().unwrap();
    let of_variables = config.origins().iter().filter(|origin| matches!(origin, Origin::Environment(_))).count();
    assert_eq!(of_variables, VARIABLES.len());
    assert_eq!(config.env_pass.value, ["A", "B_*"]);
    assert_eq!(config.env_mode.value, EnvMode::Strict);
    assert!(!config.for_task(&["make", "x"]).cache_failures);
    assert!(config.for_task(&["cc"]).cache_failures);
    assert!(config.notices.is_empty());
}

#[test]
fn paths_start_at_the_file_or_the_home() {
    let place = Place::new().file("ws/wink.toml", "cacheDir = \"sub/cache\"");
    assert_eq!(place.load().unwrap().store_dir().unwrap(), place.temp.path().join("ws/sub/cache"));
    let place = Place::new().file("ws/wink.toml", "cache_dir = \"~/c\"");
    assert_eq!(place.load().unwrap().store_dir().unwrap(), place.temp.path().join("home/c"));
}

#[test]
fn tables_of_tasks() {
    let text = "[env]\nmode = \"strict\"\npass = [\"A\"]\n[[task]]\nmatch = \"npm run *\"\noutput = [\"dist/**\"]\nenv = { include = [\"NODE_ENV\"] }\n";
    let config = Place::new().file("ws/wink.toml", text).load().unwrap();
    let settings = config.for_task(&["npm", "run", "build"]);
    assert_eq!(settings.output, ["dist/**"]);
    assert_eq!(settings.env.include, ["NODE_ENV"]);
    assert_eq!(settings.env.pass, ["A"]);
    assert!(config.for_task(&["npm", "test"]).output.is_empty());
}

#[test]
fn mistakes_are_named_with_place_and_remedy() {
    let toml = |text: &str| Place::new().file("ws/wink.toml", text).error();
    let error = toml("own = \"hide\"\nscop = \"system\"\n");
    assert!(error.ends_with("wink.toml:2: unknown key \"scop\"; did you mean \"scope\"?"), "{error}");
    let error = toml("\n[env]\nmod = \"strict\"");
    assert!(error.contains(":3: ") && error.contains("\"mode\""), "{error}");
    let error = toml("[[task]]\nown = \"hide\"");
    assert!(error.contains(":1: ") && error.contains("\"match\""), "{error}");
    assert!(toml("own = \"hid\"").contains("did you mean \"hide\""));
    assert!(toml("own = 3").contains("must be a text in quotes, not a number"));
    assert!(toml("max_size = \"ten\"").contains("10GB"));
    assert!(toml("max_age = 30").contains("30d"));
    assert!(toml("cache_dir = \"a\"\ncacheDir = \"b\"").contains("twice"));
    assert!(toml("own = = 1").contains("wink.toml:1: "));
    assert!(toml("canonical_root = \"w\"").contains("absolute"));
    let error = Place::new().file("ws/wink.json", "{\n\"cacheDri\": \"x\"}").error();
    assert!(error.contains("wink.json:2: ") && error.contains("cache_dir"), "{error}");
    let both = Place::new().file("ws/wink.json", "{}").file("ws/wink.toml", "").error();
    assert!(both.contains("keep one"), "{both}");
    assert!(Place::new().set("WINK_SCOPE", "wurkspace").error().contains("WINK_SCOPE: \"scope\" cannot be"));
    assert!(Place::new().set("WINK_CONFIG", "/no/such/file").error().contains("/no/such/file"));
}

#[test]
fn a_misspelt_variable_is_noticed() {
    let config = Place::new().set("WINK_SCOPES", "system").set("WINK_UNRELATED_THING", "x").load().unwrap();
    assert_eq!(config.notices, ["WINK_SCOPES is not used; did you mean WINK_SCOPE?"]);
}

/// Each row of the page's table: key, variable. No key is missing, none is made up.
#[test]
fn the_page_lists_every_key() {
    let page = include_str!("../../docs/CONFIGURATION.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | `WINK_"));
    let listed: Vec<(String, String)> = rows
        .map(|(key, rest)| (key.to_owned(), format!("WINK_{}", rest.split('`').next().unwrap_or_default())))
        .collect();
    let wanted: Vec<(String, String)> = VARIABLES
        .iter()
        .map(|(variable, key, in_env)| {
            (if *in_env { format!("env.{key}") } else { (*key).to_owned() }, (*variable).to_owned())
        })
        .collect();
    assert_eq!(listed, wanted);
    let top: Vec<&str> = TOP.iter().copied().filter(|key| !["$schema", "env"].contains(key)).collect();
    assert!(top.iter().all(|key| listed.iter().any(|(listed, _)| listed == key)), "{top:?}");
}
