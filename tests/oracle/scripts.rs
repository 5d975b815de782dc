//! Tasks as text: the same ingredients for `/bin/sh` and for python.

use super::project::{How, Op, Task};

const PRELUDE: &str = r"import os, shutil, sys
def read(path):
    with open(path, 'rb') as file: return file.read()
def into(path):
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    return path
def write(path, data):
    with open(into(path), 'wb') as file: file.write(data)
def how(name, data):
    if name == 'Upper': return data.upper()
    if name == 'Sort': return b''.join(sorted(data.splitlines(True)))
    if name == 'Count': return b'%d\n' % len(data)
    return data
def drop(path):
    if os.path.isdir(path) and not os.path.islink(path): shutil.rmtree(path)
    elif os.path.lexists(path): os.unlink(path)
def main():
";

const END: &str = r"
try:
    main()
except Exception as error:
    sys.stdout.flush()
    print('failed:', type(error).__name__, getattr(error, 'errno', ''), file=sys.stderr)
    sys.exit(1)
";

/// The script; `hold` is the file that holds it, if there is such a file.
pub fn render(task: &Task, hold: &str) -> String {
    let mut lines = Vec::new();
    for (at, op) in task.ops.iter().enumerate() {
        if at == task.pause {
            lines.push(pause(task.python, hold));
        }
        lines.push(if task.python { python(op) } else { shell(op) });
    }
    if task.pause >= task.ops.len() {
        lines.push(pause(task.python, hold));
    }
    match task.python {
        true => {
            let body: Vec<String> =
                lines.iter().flat_map(|line| line.lines()).map(|line| format!("    {line}")).collect();
            format!("{PRELUDE}{}\n{END}", body.join("\n"))
        }
        false => format!("{}{}\n", if task.strict { "set -e\n" } else { "" }, lines.join("\n")),
    }
}

fn pause(python: bool, hold: &str) -> String {
    match python {
        true => format!("sys.stdout.flush()\nif os.path.exists('{hold}'): os.execv('/bin/sh', ['sh', '{hold}'])"),
        false => format!("if [ -e {hold} ]; then exec /bin/sh {hold}; fi"),
    }
}

fn pipe(how: How) -> &'static str {
    match how {
        How::Plain => "cat",
        How::Upper => "tr a-z A-Z",
        How::Sort => "sort",
        How::Count => "wc -c",
    }
}

fn dir(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((dir, _)) => format!("mkdir -p {dir}\n"),
        None => String::new(),
    }
}

fn shell(op: &Op) -> String {
    match op {
        // The directory that all share is there afterwards in any case: whether it was is none of this task's doing.
        Op::Clean { paths } => format!("rm -rf {}; mkdir -p shared", paths.join(" ")),
        Op::Cat { from, to, how } => {
            // Two that complain at once would do so in any order.
            format!("{}if true > {to}; then cat {} | {} > {to}; fi", dir(to), from.join(" "), pipe(*how))
        }
        Op::Each { dir, to, how } => format!(
            "mkdir -p {to}\nfor f in {dir}/*; do if [ -f \"$f\" ]; then {} < \"$f\" > {to}/$(basename \"$f\").o; fi; done",
            pipe(*how)
        ),
        Op::Exists { path, to } => {
            format!("{}if [ -e {path} ]; then echo yes > {to}; else echo no > {to}; fi", dir(to))
        }
        Op::Executable { path, to } => {
            format!("{}if [ -x {path} ]; then echo yes > {to}; else echo no > {to}; fi", dir(to))
        }
        Op::ReadLink { path, to } => format!("{}readlink {path} > {to}", dir(to)),
        Op::List { dir: listed, to } => format!("{}ls -a {listed} > {to} 2>&1 || :", dir(to)),
        Op::SoftLink { target, to } => format!("{}ln -sfn {target} {to}", dir(to)),
        Op::HardLink { from, to } => format!("{}ln -f {from} {to}", dir(to)),
        Op::Mode { path, mode } => format!("chmod {mode:o} {path}"),
        Op::EmptyDir { path } => format!("mkdir -p {path}"),
        Op::EmptyFile { path } => format!("{}: > {path}", dir(path)),
        Op::Print { from } => format!("cat {from}; echo printed {from} >&2"),
        Op::FailIf { path, word, code } => format!("if grep -qs {word} {path}; then exit {code}; fi"),
        Op::Only { path, word, to } => format!("{}if grep -qs {word} {path}; then echo {word} > {to}; fi", dir(to)),
        Op::Rename { from, to } => format!("{}mv -f {from} {to}", dir(to)),
        Op::Consume { from, to } => format!("{}if [ -f {from} ]; then mv -f {from} {to}; fi", dir(to)),
        Op::Format { path } => {
            format!("if [ -f {path} ]; then sort {path} > {path}.new && mv -f {path}.new {path}; fi")
        }
        Op::Append { from, to } => format!("{}wc -c < {from} >> {to}", dir(to)),
        Op::Incremental { dir: from, to, state } => format!(
            "mkdir -p {to}; {}for f in {from}/*; do if [ -f \"$f\" ]; then o={to}/$(basename \"$f\").o; \
             sum=$(cksum < \"$f\"); if [ -e \"$o\" ] && grep -qsxF \"$f $sum\" {state}; then continue; fi; \
             tr a-z A-Z < \"$f\" > \"$o\"; echo \"built $f\"; fi; done\n\
             for o in {to}/*; do if [ ! -f \"{from}/$(basename \"$o\" .o)\" ]; then rm -rf \"$o\"; fi; done\n\
             for f in {from}/*; do if [ -f \"$f\" ]; then echo \"$f $(cksum < \"$f\")\"; fi; done > {state}.new; mv {state}.new {state}",
            dir(state)
        ),
        Op::Newer { dir, to } => format!(
            "mkdir -p {to}; for f in {dir}/*; do if [ -f \"$f\" ]; then o={to}/$(basename \"$f\").o; \
             if [ \"$o\" -nt \"$f\" ] && [ \"$o\" -nt \"$0\" ]; then continue; fi; \
             rm -f \"$o\"; tr a-z A-Z < \"$f\" > \"$o\"; echo \"built $f\"; fi; done\n\
             for o in {to}/*; do if [ ! -f \"{dir}/$(basename \"$o\" .o)\" ]; then rm -rf \"$o\"; fi; done"
        ),
        Op::Compile { to } => format!(
            "mkdir -p {to}; for f in csrc/*.c; do cc -Iinc1 -Iinc2 -MMD -c \"$f\" -o {to}/$(basename \"$f\" .c).o; done"
        ),
    }
}

fn python(op: &Op) -> String {
    match op {
        Op::Clean { paths } => format!("for path in {paths:?}: drop(path)\nos.makedirs('shared', exist_ok=True)"),
        Op::Cat { from, to, how } => {
            format!("write('{to}', how('{how:?}', b''.join(read(path) for path in {from:?})))")
        }
        Op::Each { dir, to, how } => format!(
            "os.makedirs('{to}', exist_ok=True)\nfor name in sorted(os.listdir('{dir}')):\n    \
             if os.path.isfile('{dir}/' + name): write('{to}/' + name + '.o', how('{how:?}', read('{dir}/' + name)))"
        ),
        Op::Exists { path, to } => format!("write('{to}', b'%r\\n' % os.path.exists('{path}'))"),
        Op::Executable { path, to } => format!("write('{to}', b'%r\\n' % os.access('{path}', os.X_OK))"),
        Op::ReadLink { path, to } => format!("write('{to}', os.readlink('{path}').encode())"),
        Op::List { dir, to } => format!("write('{to}', '\\n'.join(sorted(os.listdir('{dir}'))).encode())"),
        Op::SoftLink { target, to } => format!("drop(into('{to}')); os.symlink('{target}', '{to}')"),
        Op::HardLink { from, to } => format!("drop(into('{to}')); os.link('{from}', '{to}')"),
        Op::Mode { path, mode } => format!("os.chmod('{path}', 0o{mode:o})"),
        Op::EmptyDir { path } => format!("os.makedirs('{path}', exist_ok=True)"),
        Op::EmptyFile { path } => format!("write('{path}', b'')"),
        Op::Print { from } => {
            format!("sys.stdout.write(read('{from}').decode()); print('printed', '{from}', file=sys.stderr)")
        }
        Op::FailIf { path, word, code } => {
            format!("if os.path.isfile('{path}') and b'{word}' in read('{path}'): sys.exit({code})")
        }
        Op::Only { path, word, to } => {
            format!("if os.path.isfile('{path}') and b'{word}' in read('{path}'): write('{to}', b'{word}')")
        }
        Op::Rename { from, to } => format!("os.replace('{from}', into('{to}'))"),
        Op::Consume { from, to } => format!("if os.path.isfile('{from}'): os.replace('{from}', into('{to}'))"),
        Op::Format { path } => format!("if os.path.isfile('{path}'): write('{path}', how('Sort', read('{path}')))"),
        Op::Append { from, to } => {
            format!("with open(into('{to}'), 'ab') as log: log.write(b'%d\\n' % len(read('{from}')))")
        }
        Op::Incremental { .. } | Op::Newer { .. } | Op::Compile { .. } => "pass".to_owned(),
    }
}
