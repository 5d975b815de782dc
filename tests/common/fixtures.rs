//! The real projects, each put into a workspace by one function that returns the shell line that builds it.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{World, tools};

/// Lua 5.4 by make: 33 compilations, an archive, a link.
pub fn lua(world: &World) -> Result<String, String> {
    let sources = tools::lua()?;
    for entry in fs::read_dir(sources).unwrap() {
        let path = entry.unwrap().path();
        world.write(path.file_name().unwrap(), fs::read(&path).unwrap());
    }
    for name in ["Makefile", "main.c"] {
        world.write(name, fs::read(tools::tests().join("fixtures/lua").join(name)).unwrap());
    }
    Ok("make -s -j2".into())
}

/// A TypeScript project whose `tsbuildinfo` lies outside `dist`: the trap of DESIGN §3.4.
pub fn typescript(world: &World) -> Result<String, String> {
    let (_, modules) = tools::typescript()?;
    let config = r#"{ "compilerOptions": { "target": "ES2020", "module": "commonjs", "strict": true, "declaration": true,
        "sourceMap": true, "incremental": true, "tsBuildInfoFile": "tsconfig.tsbuildinfo", "rootDir": "src",
        "outDir": "dist", "types": [], "lib": ["ES2020"] }, "include": ["src"] }"#;
    world.write("tsconfig.json", config);
    world.write("package.json", r#"{ "name": "fixture", "version": "1.0.0", "private": true }"#);
    for number in 0..8 {
        let import = match number {
            0 => String::new(),
            _ => format!("import {{ value as before }} from \"./m{}\";\n", number - 1),
        };
        let before = if number == 0 { "1" } else { "before" };
        let body = format!("{import}export const value: number = {before} + {number};\n");
        world.write(format!("src/m{number}.ts"), body);
    }
    world.write("src/deep/index.ts", "export { value } from \"../m7\";\n");
    std::os::unix::fs::symlink(modules, world.ws.join("node_modules")).unwrap();
    Ok("node node_modules/typescript/lib/tsc.js -p .".into())
}

/// A package without dependencies: a library, a binary, a build script.
pub fn cargo(world: &World) -> Result<String, String> {
    tools::cargo()?;
    world.write(
        "Cargo.toml",
        "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[workspace]\n\n[profile.dev]\ndebug = false\n",
    );
    // One file a crate: with two, cargo writes their names in the order of a hash map, another one each time.
    world.write("src/lib.rs", "pub fn answer() -> u32 {\n    42\n}\n");
    world.write("src/main.rs", "fn main() {\n    println!(\"{} {}\", small::answer(), env!(\"STAMP\"));\n}\n");
    world.write(
        "build.rs",
        "fn main() {\n    println!(\"cargo:rerun-if-changed=stamp.txt\");\n    let s = std::fs::read_to_string(\"stamp.txt\").unwrap();\n    println!(\"cargo:rustc-env=STAMP={}\", s.trim());\n}\n",
    );
    world.write("stamp.txt", "first\n");
    // The file it keeps about the compiler names that file's creation time, which FUSE does not hand on.
    Ok("CARGO_INCREMENTAL=0 CARGO_CACHE_RUSTC_INFO=0 cargo build --offline -q && ./target/debug/small".into())
}

/// A script whose input is whatever a glob finds.
pub fn python_glob(world: &World) -> Result<String, String> {
    let python = tools::python()?;
    let script = r#"
import glob, os
total, names = 0, sorted(glob.glob("data/**/*.txt", recursive=True))
for name in names:
    with open(name) as file:
        total += sum(int(line) for line in file)
if os.path.exists("data/extra.cfg"):
    total += 1000
os.makedirs("build", exist_ok=True)
with open("build/sum.txt", "w") as out:
    print(len(names), total, file=out)
print("summed", len(names), "files:", total)
"#;
    world.write("sum.py", script);
    for (name, text) in [("a", "1\n2\n"), ("b", "3\n"), ("sub/c", "4\n"), ("sub/deeper/d", "5\n")] {
        world.write(format!("data/{name}.txt"), text);
    }
    world.write("data/readme.md", "not a number\n");
    Ok(format!("{python} sum.py"))
}

/// Shell with temporary files, renames and a directory swapped in whole.
pub fn pipeline(world: &World) -> Result<String, String> {
    let script = r#"#!/bin/sh
set -e
mkdir -p out.new/parts
for f in words/*.txt; do
  sort "$f" > "out.new/tmp.$$"
  mv "out.new/tmp.$$" "out.new/parts/$(basename "$f")"
done
cat out.new/parts/*.txt | sort | uniq -c > all.tmp
mv all.tmp out.new/all
[ -e strict.flag ] && grep -q zebra out.new/all
ls words | wc -l > out.new/count
rm -rf out
mv out.new out
echo done
echo warned >&2
"#;
    world.script("pipeline.sh", script.replace("[ -e strict.flag ] && grep", "! [ -e strict.flag ] || grep"));
    world.write("words/one.txt", "pear\napple\nfig\n");
    world.write("words/two.txt", "kiwi\napple\n");
    world.write("unused/notes.txt", "nobody reads this\n");
    Ok("./pipeline.sh".into())
}

/// A static binary (compiled here, natively) that reads by mmap.
pub fn static_reader(world: &World) -> Result<String, String> {
    compile(&tools::tests().join("fixtures/c/reader.c"), &world.ws.join("reader"), &["-static"])?;
    world.write("input/big.bin", (0..200_000u32).map(|n| (n * 7 % 251) as u8).collect::<Vec<_>>());
    world.write("input/other.txt", "listed, not read\n");
    world.write("beside.txt", "neither\n");
    Ok("./reader input/big.bin input out.txt".into())
}

/// Compiles one C file natively.
pub fn compile(source: &Path, binary: &Path, flags: &[&str]) -> Result<(), String> {
    let gcc = tools::gcc()?;
    let run = Command::new(gcc).arg("-O1").args(flags).arg("-o").arg(binary).arg(source).output();
    let run = run.map_err(|error| error.to_string())?;
    match run.status.success() {
        true => Ok(()),
        false => Err(format!("gcc {flags:?} {}: {}", source.display(), String::from_utf8_lossy(&run.stderr))),
    }
}
