//! The configuration from outside: every key from every source, what `wink config show` says of it, the schema for editors, and packages
//! that are never cached.

mod common;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use common::{World, simple, strs};

/// Every key but `task`: its camelCase spelling, a value for a file, the variable, its text, and how `config show` prints that.
fn keys() -> Vec<(&'static str, &'static str, Value, &'static str, &'static str, Value)> {
    vec![
        ("cache_dir", "cacheDir", json!("/f/cache"), "WINK_CACHE_DIR", "/v/cache", json!("/v/cache")),
        ("max_size", "maxSize", json!(5000), "WINK_MAX_SIZE", "2kB", json!(2000)),
        ("max_age", "maxAge", json!("12h"), "WINK_MAX_AGE", "15m", json!("15m")),
        ("verify_integrity", "verifyIntegrity", json!(true), "WINK_VERIFY_INTEGRITY", "no", json!(false)),
        ("exclude_packages", "excludePackages", json!(["a"]), "WINK_EXCLUDE_PACKAGES", "b, c", json!(["b", "c"])),
        ("cache_failures", "cacheFailures", json!(true), "WINK_CACHE_FAILURES", "0", json!(false)),
        ("scope", "scope", json!("workspace"), "WINK_SCOPE", "system", json!("system")),
        ("own", "own", json!("hide"), "WINK_OWN", "observe", json!("observe")),
        ("canonical_root", "canonicalRoot", json!("/f"), "WINK_CANONICAL_ROOT", "/v", json!("/v")),
        ("env.mode", "env.mode", json!("strict"), "WINK_ENV_MODE", "loose", json!("loose")),
        ("env.pass", "env.pass", json!(["A"]), "WINK_ENV_PASS", "B", json!(["B"])),
        ("env.include", "env.include", json!(["A"]), "WINK_ENV_INCLUDE", "B", json!(["B"])),
        ("ignore", "ignore", json!(["*.log"]), "WINK_IGNORE", "*.tmp", json!(["*.tmp"])),
        ("scratch", "scratch", json!(["s"]), "WINK_SCRATCH", "t", json!(["t"])),
        ("transport", "transport", json!("uring"), "WINK_TRANSPORT", "classic", json!("classic")),
        ("transport", "transport", json!("classic"), "WINK_TRANSPORT", "uring", json!("uring")),
    ]
}

fn show(world: &World, variable: Option<(&str, &str)>, text: bool) -> String {
    let call = world.call();
    let call = match variable {
        Some((name, value)) => call.env(name, value),
        // Not where the world's own cache is: the default, or what the file says.
        None => call.env("WINK_CACHE_DIR", ""),
    };
    let run = call.wink(&[&["config", "show"][..], if text { &[] } else { &["--json"] }].concat());
    assert_eq!(run.code, 0, "{run:?}");
    run.out()
}

/// A file with one key.
fn one(key: &str, value: &Value, toml: bool) -> String {
    let line = |key: &str| if toml { format!("{key} = {value}\n") } else { format!("\"{key}\": {value}") };
    match (key.split_once('.'), toml) {
        (Some((table, key)), true) => format!("[{table}]\n{}", line(key)),
        (Some((table, key)), false) => format!("{{ \"{table}\": {{ {} }} }}", line(key)),
        (None, true) => line(key),
        (None, false) => format!("{{ {} }}", line(key)),
    }
}

#[test]
fn every_key_from_every_source() {
    let world = World::new("config");
    let user = world.home.join(".config/wink/config.toml");
    let user_json = world.home.join(".config/wink/config.json");
    fs::create_dir_all(user.parent().unwrap()).unwrap();
    world.remove("wink.toml");
    let (toml, json_file) = (world.ws.join("wink.toml"), world.ws.join("wink.json"));
    for (snake, camel, value, variable, text, shown) in keys() {
        let is = |said: &str, wanted: &Value, origin: &str| {
            let all: Value = serde_json::from_str(said).unwrap();
            assert_eq!(all[snake], json!({ "value": wanted, "origin": origin }), "{snake}");
            let others = all.as_object().unwrap().iter().filter(|(key, _)| *key != snake && *key != "cache_dir");
            for (key, other) in others {
                assert!(key == "task" || other["origin"] == "default", "{key}: {other}");
            }
        };
        for (path, spelling, is_toml) in
            [(&user, snake, true), (&user_json, camel, false), (&toml, camel, true), (&json_file, snake, false)]
        {
            fs::write(path, one(spelling, &value, is_toml)).unwrap();
            is(&show(&world, None, false), &value, path.to_str().unwrap());
            let line = show(&world, None, true);
            let end = format!("# {}", path.display());
            assert!(
                line.lines().any(|line| line.starts_with(&format!("{snake} = {value}")) && line.ends_with(&end)),
                "{line}"
            );
            fs::remove_file(path).unwrap();
        }
        // Each source over the one before.
        fs::write(&user, one(camel, &shown, true)).unwrap();
        fs::write(&json_file, one(camel, &value, false)).unwrap();
        is(&show(&world, None, false), &value, json_file.to_str().unwrap());
        if variable != "WINK_CACHE_DIR" {
            let said = world.call().env("WINK_CACHE_DIR", "").env(variable, text).wink(&["config", "show", "--json"]);
            is(&said.out(), &shown, variable);
        }
        is(&show(&world, Some((variable, text)), false), &shown, variable);
        fs::remove_file(&user).unwrap();
        fs::remove_file(&json_file).unwrap();
    }
}

/// The schema, ready to judge.
fn schema(world: &World) -> jsonschema::Validator {
    let run = world.call().wink(&["config", "schema"]);
    assert_eq!(run.code, 0, "{run:?}");
    let schema: Value = serde_json::from_slice(&run.stdout).unwrap();
    jsonschema::draft202012::meta::validate(&schema).unwrap_or_else(|error| panic!("no schema: {error}"));
    jsonschema::validator_for(&schema).unwrap()
}

/// The fenced blocks of a page that are of this kind.
fn examples(page: &str, kind: &str) -> Vec<String> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).unwrap();
    let blocks = page.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix(&format!("{kind}\n")));
    blocks.map(str::to_owned).collect()
}

#[test]
fn the_schema_accepts_what_wink_accepts() {
    let world = World::new("schema");
    let schema = schema(&world);
    world.remove("wink.toml");
    let accepted = |name: &str, text: &str| {
        fs::write(world.ws.join(name), text).unwrap();
        let run = world.call().wink(&["config", "show"]);
        fs::remove_file(world.ws.join(name)).unwrap();
        run.code == 0
    };
    let as_json = |text: &str| serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap();

    let (toml, json) = (examples("docs/CONFIGURATION.md", "toml"), examples("docs/CONFIGURATION.md", "json"));
    assert!(!toml.is_empty() && !json.is_empty(), "the page has examples");
    for text in &toml {
        assert!(accepted("wink.toml", text) && schema.is_valid(&as_json(text)), "{text}");
    }
    for text in &json {
        assert!(accepted("wink.json", text) && schema.is_valid(&serde_json::from_str(text).unwrap()), "{text}");
    }
    for (snake, camel, value, ..) in keys() {
        for key in [snake, camel] {
            let text = one(key, &value, false);
            assert!(accepted("wink.json", &text) && schema.is_valid(&serde_json::from_str(&text).unwrap()), "{text}");
        }
    }
    for text in [
        r#"{ "$schema": "wink.schema.json", "maxSize": "none", "ignore": "one" }"#,
        r#"{ "task": [{ "match": "x", "cacheFailures": true, "env": { "pass": "A" }, "input": [], "output": ["d"] }] }"#,
    ] {
        assert!(accepted("wink.json", text) && schema.is_valid(&serde_json::from_str(text).unwrap()), "{text}");
    }
    for text in [
        r#"{ "cachedir": "x" }"#,
        r#"{ "cache_dir": "x", "cacheDir": "y" }"#,
        r#"{ "own": "keep" }"#,
        r#"{ "scope": true }"#,
        r#"{ "max_age": 30 }"#,
        r#"{ "max_size": -1 }"#,
        r#"{ "verifyIntegrity": "yes" }"#,
        r#"{ "ignore": [1] }"#,
        r#"{ "canonical_root": "w" }"#,
        r#"{ "canonical_root": "/" }"#,
        r#"{ "env": { "mod": "strict" } }"#,
        r#"{ "env": [] }"#,
        r#"{ "task": { "match": "x" } }"#,
        r#"{ "task": [{ "own": "hide" }] }"#,
        r#"{ "task": [{ "match": "x", "ignore": [] }] }"#,
    ] {
        assert!(!accepted("wink.json", text) && !schema.is_valid(&serde_json::from_str(text).unwrap()), "{text}");
    }
}

#[test]
fn excluded_packages_are_never_cached() {
    let (world, command) = simple("excluded");
    let command = strs(&command);
    world.write("wink.json", r#"{ "excludePackages": ["@acme/tools", "gen-*"] }"#);
    world.remove("wink.toml");
    world.write("package.json", r#"{ "name": "root" }"#);
    world.write("tools/package.json", r#"{ "name": "@acme/tools" }"#);
    world.write("tools/src/source.txt", "text\n");
    world.write("gen/Cargo.toml", "[package]\nname = \"gen-code\"\n");
    world.write("gen/source.txt", "text\n");
    world.run(&command).miss();
    world.run(&command).hit();
    for (dir, name) in [("tools/src", "@acme/tools"), ("gen", "gen-code")] {
        for _ in 0..2 {
            let run = world.call().dir(dir).run(&command);
            run.uncached().exits(0);
            assert_eq!(run.reason(), format!("the package {name} is excluded from caching (exclude_packages)"));
            assert_eq!(run.out(), "printed\n");
        }
        let said = world.call().dir(dir).wink(&[&["explain", "--"], &command[..]].concat());
        assert_eq!(said.out(), format!("not cached: the package {name} is excluded from caching (exclude_packages)\n"));
    }
    assert_eq!(world.count(), 5);
    world.call().dir("gen").env("WINK_EXCLUDE_PACKAGES", "").run(&command).miss();
}
