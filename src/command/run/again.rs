//! A recorded task once more: from what its key was made of back to the task itself.
//!
//! A key holds digests, so what they are of must be had: the values of variables from this process' own environment or from the few that are
//! kept, everything else from the configuration as it is now. The key that comes out decides: unless it is the record's, this is another task.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use wink_platform::unix::identity;
use wink_platform::unix::stdin::{self, Kind};
use wink_store::{Digest, RecordHead};

use super::prepare::{Place, STANDARD_INPUT, WAY, relative_cwd};
use crate::cli::TaskArgs;
use crate::config::{Config, Own, Scope};
use crate::engine::detect::tracing::Tracing;
use crate::engine::{Input, Task};
use crate::environment::{self, Environments};
use crate::key::{KeyInput, KeyParts, Keys, Platform, part};
use crate::roots::Roots;

/// The task of a record of this workspace, or why it cannot be had.
pub fn again(
    head: &RecordHead,
    parts: &KeyParts,
    argv: Vec<OsString>,
    (workspace, home): (&Path, Option<&Path>),
    config: &Config,
) -> Result<Task, String> {
    let cannot = |error: anyhow::Error| crate::explain(&error);
    if parts.stdin.is_some() {
        return Err("what it read from standard input is not kept".to_owned());
    }
    let told = |name: &str| parts.extras.iter().find(|(other, _)| other == name).map(|(_, digest)| digest.as_str());
    let terminals = [std::io::stdout().is_terminal(), std::io::stderr().is_terminal()];
    if (parts.terminals.0 && !terminals[0]) || (parts.terminals.1 && !terminals[1]) {
        return Err("its output went to a terminal; ask from a terminal".to_owned());
    }
    let (stdin, kind) = match told(STANDARD_INPUT) {
        None => (Input::Empty, None),
        Some(digest) if digest == kind_digest(Kind::Pipe) => (Input::Bytes(Vec::new()), Some(Kind::Pipe)),
        Some(digest) if digest == kind_digest(stdin::kind()) => (Input::Callers, Some(stdin::kind())),
        Some(_) => return Err("its standard input was a terminal; ask from a terminal".to_owned()),
    };
    let cwd = workspace.join(&parts.cwd);
    let cwd =
        cwd.canonicalize().map_err(|error| format!("its directory {} cannot be entered: {error}", cwd.display()))?;

    let roots = Roots::new(workspace, home);
    let way = match told(WAY) {
        None => None,
        Some(digest) => match way_to(&cwd).filter(|way| part(&roots, way.as_os_str()) == digest) {
            Some(way) => Some(way),
            None => return Err("it was started by another way to its directory (PWD)".to_owned()),
        },
    };

    let words: Vec<&[u8]> = argv.iter().map(|word| word.as_encoded_bytes()).collect();
    let mut settings = config.for_task(&words);
    let flags = TaskArgs {
        env: parts.flags.env.clone(),
        pass_env: parts.flags.pass_env.clone(),
        input: parts.flags.input.clone(),
        output: parts.flags.output.clone(),
        own: match parts.own.as_deref() {
            None => Some(Own::Carry),
            Some("hide") => Some(Own::Hide),
            Some("observe") => Some(Own::Observe),
            Some(_) => None,
        },
        scope: match parts.scope.as_str() {
            "system" => Some(Scope::System),
            "workspace" => Some(Scope::Workspace),
            _ => None,
        },
        ..TaskArgs::default()
    };
    flags.apply(&mut settings);
    let variables = variables(std::env::vars_os(), parts, &roots, &settings.env);
    let mut environments = environment::divide(variables, &settings.env);
    set_pwd(&mut environments, way.as_deref().unwrap_or(&cwd));
    let path = environments.task.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let way = way.map(|way| roots.substitute(way.as_os_str().as_encoded_bytes()));
    let place = Place { workspace, cwd: &cwd, path };
    let extras = place.extras(&settings, way, kind);
    let contents = place.contents(&argv, &settings).map_err(cannot)?;
    let mut keys = Keys::new(
        &KeyInput {
            argv: &argv,
            cwd: &relative_cwd(&cwd, workspace),
            environment: &environments.key,
            stdin: None,
            umask: parts.umask,
            platform: Platform::here(identity::effective_ids().0 == 0),
            scope: settings.scope,
            extras: &extras,
            contents: &contents,
            own: settings.own,
            stdout_terminal: parts.terminals.0,
            stderr_terminal: parts.terminals.1,
        },
        &roots,
    );
    if keys.task != head.task_key {
        let differences = keys.parts.differences(parts);
        let first = differences.into_iter().next().map(|difference| difference.text);
        return Err(first.unwrap_or_else(|| "its key cannot be made again".to_owned()));
    }
    keys.parts.flags = parts.flags.clone();
    Ok(Task {
        workspace: workspace.to_owned(),
        home: home.map(Path::to_owned),
        cwd,
        argv,
        environment: environments.task,
        stdin,
        keys,
        settings,
        roots,
        detect: Box::new(Tracing),
        mount: None,
        only_asked: true,
        quiet: true,
    })
}

fn kind_digest(kind: Kind) -> String {
    Digest::of(format!("{kind:?}").as_bytes()).to_string()
}

/// This process' variables as the task had them: those of its key with the values that they had, as far as these are known, without those that
/// would be in the key and were not. What is never in a key stays as it is.
fn variables(
    present: impl Iterator<Item = (OsString, OsString)>,
    parts: &KeyParts,
    roots: &Roots,
    settings: &crate::config::EnvSettings,
) -> Vec<(OsString, OsString)> {
    let mut missing: BTreeMap<&str, &String> =
        parts.environment.iter().map(|(name, digest)| (name.as_str(), digest)).collect();
    let kept = |name: &str, digest: &String| {
        let value = OsString::from(parts.values.get(name)?);
        (part(roots, &value) == *digest).then_some(value)
    };
    let mut variables = Vec::new();
    for (name, value) in present {
        let decides = environment::divide([(name.clone(), value.clone())], settings).key.pop();
        let Some((_, decides)) = decides else {
            variables.push((name, value));
            continue;
        };
        let Some(digest) = name.to_str().and_then(|name| missing.remove(name)) else { continue };
        let same = part(roots, &decides) == *digest;
        let then = if same { None } else { name.to_str().and_then(|name| kept(name, digest)) };
        variables.push((name, then.unwrap_or(value)));
    }
    // What is gone and not known is missed by the key.
    variables.extend(missing.into_iter().filter_map(|(name, digest)| Some((name.into(), kept(name, digest)?))));
    variables
}

/// A directory by the way that this process came.
fn way_to(dir: &Path) -> Option<PathBuf> {
    let here = PathBuf::from(std::env::var_os("PWD")?);
    let inside = dir.strip_prefix(here.canonicalize().ok()?).ok()?.to_owned();
    Some(if inside.as_os_str().is_empty() { here } else { here.join(inside) })
}

/// The way that the key says.
fn set_pwd(environments: &mut Environments, way: &Path) {
    for (_, value) in environments.task.iter_mut().filter(|(name, _)| name == "PWD") {
        way.as_os_str().clone_into(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::EnvSettings;

    fn pairs(list: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        list.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn variables_are_what_they_were_as_far_as_is_known() {
        let roots = Roots::new(Path::new("/w/here"), None);
        let then = pairs(&[("NODE_ENV", "test"), ("SECRET", "a"), ("PATH", "/w/here/bin:/bin"), ("OTHER", "1")]);
        let key = |environment: &[(OsString, OsString)]| {
            let input = KeyInput {
                argv: &[],
                cwd: b"",
                environment,
                stdin: None,
                umask: 0,
                platform: Platform::here(false),
                scope: Scope::System,
                extras: &[],
                contents: &[],
                own: Own::Carry,
                stdout_terminal: false,
                stderr_terminal: false,
            };
            Keys::new(&input, &roots).parts
        };
        let parts = key(&then);
        let now =
            pairs(&[("NODE_ENV", "production"), ("SECRET", "b"), ("OTHER", "1"), ("ADDED", "x"), ("TERM", "dumb")]);
        let again = variables(now.into_iter(), &parts, &roots, &EnvSettings::default());
        let wanted =
            [("NODE_ENV", "test"), ("SECRET", "b"), ("OTHER", "1"), ("TERM", "dumb"), ("PATH", "/w/here/bin:/bin")];
        assert_eq!(again, pairs(&wanted));
        let differences = key(&environment::divide(again, &EnvSettings::default()).key).differences(&parts);
        let told: Vec<&str> = differences.iter().map(|difference| difference.text.as_str()).collect();
        assert_eq!(told, ["the environment variable SECRET changed"]);
    }
}
