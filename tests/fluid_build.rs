//! The real fluid-build on a small monorepo (typescript, eslint, vite) whose scripts are wrapped in `wink run --`: cold, warm, cleaned, with only
//! `dist` deleted, in a second clone, after an edit, and as one task. Every tree equals the native one.

mod common;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

use common::page::{Item, file, section};
use common::{Run, Tree, World, assert_same, figure, snapshot, tools};

const TSCONFIG: &str = r#"{ "compilerOptions": { "target": "ES2022", "module": "ES2022", "moduleResolution": "Bundler", "strict": true,
  "declaration": true, "sourceMap": true, "composite": true, "tsBuildInfoFile": "tsconfig.tsbuildinfo", "rootDir": "src", "outDir": "dist",
  "types": [] }, "include": ["src"] }"#;
const ESLINT: &str = r#"{ "root": true, "env": { "es2022": true }, "parserOptions": { "ecmaVersion": 2022, "sourceType": "module" },
  "rules": { "no-unused-vars": "error", "prefer-const": "error" } }"#;
/// Stands in for wink where the build is to be native: the same words reach fluid-build, and the same commands run.
const NO_WINK: &str = "#!/bin/sh\nshift\n[ \"$1\" = -- ] && shift\nexec \"$@\"\n";
/// Tasks of one build.
const TASKS: usize = 5;

struct Mono {
    world: World,
    /// Where its tools are installed.
    tools: PathBuf,
}

impl Mono {
    fn new(tools: PathBuf) -> Mono {
        let world = World::git("fluid", "node_modules\ndist\n*.tsbuildinfo\n*.log\n");
        let page = section("USE.md", "fluid-build");
        let core: serde_json::Value = serde_json::from_str(file(&page, "packages/core/package.json")).unwrap();
        for item in &page {
            if let Item::File { name, text } = item {
                world.write(name, text);
            }
        }
        let mut util = core.clone();
        util["name"] = "@mono/util".into();
        util["dependencies"] = serde_json::json!({ "@mono/core": "1.0.0" });
        let app = serde_json::json!({ "name": "@mono/app", "version": "1.0.0", "private": true,
            "scripts": { "bundle": "wink run -- vite build --logLevel warn" }, "dependencies": { "@mono/util": "1.0.0" } });
        let root = serde_json::json!({ "name": "mono", "version": "1.0.0", "private": true, "workspaces": ["packages/*"],
            "scripts": { "build": "fluid-build --task build" } });
        for (path, package) in [("", &root), ("packages/util/", &util), ("packages/app/", &app)] {
            world.write(format!("{path}package.json"), package.to_string());
        }
        world.write(".eslintrc.json", ESLINT);
        for name in ["core", "util"] {
            world.write(format!("packages/{name}/tsconfig.json"), TSCONFIG);
            world.write(format!("packages/{name}/scripts/name.js"), format!("export const name = \"{name}\";\n"));
        }
        world.write("packages/core/src/index.ts", "export const twice = (n: number): number => 2 * n;\n");
        world.write(
            "packages/util/src/index.ts",
            "import { twice } from \"@mono/core\";\nexport const four = (n: number): number => twice(twice(n));\n",
        );
        world.write(
            "packages/app/index.html",
            "<!doctype html><title>app</title><script type=\"module\" src=\"/src/main.js\"></script>\n",
        );
        world.write(
            "packages/app/src/main.js",
            "import { four } from \"@mono/util\";\ndocument.title = String(four(1));\n",
        );
        let mono = Mono { world, tools };
        mono.git(&mono.world.ws, &["add", "-A"]);
        mono.git(&mono.world.ws, &["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all"]);
        mono.install(&mono.world.ws);
        mono
    }

    fn git(&self, dir: &Path, args: &[&str]) {
        let run = self.world.call().dir(dir).native(&[&["git"], args].concat());
        assert_eq!(run.code, 0, "{run:?}");
    }

    /// As `npm install` and pnpm leave it, by links.
    fn install(&self, clone: &Path) {
        let modules = clone.join("node_modules");
        fs::create_dir_all(modules.join("@mono")).unwrap();
        for entry in fs::read_dir(self.tools.join("node_modules")).unwrap() {
            let entry = entry.unwrap();
            symlink(entry.path(), modules.join(entry.file_name())).unwrap();
        }
        for name in ["core", "util", "app"] {
            symlink(format!("../../packages/{name}"), modules.join("@mono").join(name)).unwrap();
        }
        for (package, needs) in [("util", "core"), ("app", "util")] {
            let own = clone.join("packages").join(package).join("node_modules/@mono");
            fs::create_dir_all(&own).unwrap();
            symlink(format!("../../../{needs}"), own.join(needs)).unwrap();
        }
    }

    /// A path in which `wink` is this program.
    fn path(&self, program: &Path) -> OsString {
        let bin = self.world.root.join(if program.ends_with("native") { "bin-native" } else { "bin" });
        if !bin.exists() {
            fs::create_dir(&bin).unwrap();
            symlink(program, bin.join("wink")).unwrap();
        }
        std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&tools::path()))).unwrap()
    }

    fn build(&self, dir: &Path, wrap: &[&str]) -> Run {
        let path = self.path(Path::new(env!("CARGO_BIN_EXE_wink")));
        let call = self.world.call().dir(dir).env("PATH", path).env("npm_config_update_notifier", "false");
        call.native(&[wrap, &["npm", "run", "build"]].concat())
    }

    /// What a native build makes of the tree as it is now, at the same place.
    fn native(&self) -> Tree {
        let program = self.world.script(self.world.root.join("native"), NO_WINK);
        let path = self.path(&program);
        let (run, tree) = self
            .world
            .twin(|call| call.env("PATH", &path).env("npm_config_update_notifier", "false"), &["npm", "run", "build"]);
        assert_eq!(run.code, 0, "{run:?}");
        tree
    }
}

/// How the wrapped scripts went: hits and misses. fluid-build puts the package's name before what a script prints.
fn went(run: &Run) -> (usize, usize) {
    assert_eq!(run.code, 0, "{run:?}");
    let said = run.out() + &run.err();
    let count = |what: &str| said.lines().filter(|line| line.contains(&format!(": wink: {what}"))).count();
    (count("hit"), count("miss"))
}

#[test]
fn a_monorepo() {
    let mono = Mono::new(need!(tools::fluid()));
    let world = &mono.world;
    let expected = mono.native();
    let timed = |what: &str, build: &dyn Fn() -> Run| {
        let began = Instant::now();
        let run = build();
        figure(&format!("fluid-build, {what}, ms"), began.elapsed().as_millis());
        run
    };
    let here = || mono.build(&world.ws, &[]);
    for (what, prepare, hits) in [
        ("cold", (|_| ()) as fn(&Mono), 0),
        ("warm", |_| (), TASKS),
        (
            "after git clean -xfd",
            |mono| {
                mono.git(&mono.world.ws, &["clean", "-xfdq"]);
                mono.install(&mono.world.ws);
            },
            TASKS,
        ),
        (
            "dist deleted, tsbuildinfo kept",
            |mono| {
                ["core", "util", "app"].iter().for_each(|name| mono.world.remove(format!("packages/{name}/dist")));
            },
            TASKS,
        ),
    ] {
        prepare(&mono);
        let run = timed(what, &here);
        assert_eq!(went(&run), (hits, TASKS - hits), "{what}: {run:?}");
        assert_same(&expected, &world.tree(), what);
    }

    let clone = world.root.join("clone");
    mono.git(&world.root, &["clone", "-q", world.ws.to_str().unwrap(), clone.to_str().unwrap()]);
    mono.install(&clone);
    let run = timed("second clone", &|| mono.build(&clone, &[]));
    assert_eq!(went(&run), (TASKS, 0), "{run:?}");
    assert_same(&expected, &snapshot(&clone), "second clone");

    let source = world.text("packages/core/src/index.ts");
    world.write("packages/core/src/index.ts", format!("{source}export const thrice = (n: number): number => 3 * n;\n"));
    let edited = mono.native();
    let run = timed("edited", &here);
    assert_eq!(went(&run), (2, 3), "only what reads it: {run:?}");
    assert_same(&edited, &world.tree(), "edited");
    world.write("packages/core/src/index.ts", source);
    let run = timed("edit undone", &here);
    assert_eq!(went(&run), (TASKS, 0), "{run:?}");
    assert_same(&expected, &world.tree(), "edit undone");

    // All of it as one task, from clean.
    let whole = || mono.build(&world.ws, &["wink", "run", "--"]);
    let clean = || {
        mono.git(&world.ws, &["clean", "-xfdq"]);
        mono.install(&world.ws);
    };
    for (what, status) in [("as one task", "wink: miss"), ("as one task again", "wink: hit")] {
        clean();
        let run = timed(what, &whole);
        assert_eq!(run.code, 0, "{run:?}");
        let lines = run.lines();
        assert!(lines.last().unwrap().starts_with(status), "{what}: {run:?}");
        let inner = lines.iter().filter(|line| line.starts_with("wink: hit")).count();
        assert_eq!(inner, if status == "wink: miss" { TASKS } else { 1 }, "{what}: {run:?}");
        assert_same(&expected, &world.tree(), what);
    }
    world.blobs_are_sound();
}
