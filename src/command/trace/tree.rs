//! Inputs and outputs as a tree of names, the way `tree` draws one.

use std::collections::{BTreeMap, HashMap};

use wink_store::{Digest, Manifest, Observation, OpaqueKind, Output, Root, Trace};

use crate::report::{human_bytes, one_line};

/// A name with what is known of it and what is below it.
#[derive(Default)]
pub struct Branch {
    /// What is known of it, in words; nothing of a directory that was only walked through.
    note: String,
    is_dir: bool,
    is_fact: bool,
    bytes: Option<u64>,
    below: BTreeMap<Vec<u8>, Branch>,
}

/// One tree for each root that occurs.
pub fn of_inputs(trace: &Trace, sizes: &HashMap<Digest, u64>) -> BTreeMap<Root, Branch> {
    let mut trees: BTreeMap<Root, Branch> = BTreeMap::new();
    for (path, seen) in &trace.seen {
        let branch = trees.entry(path.root()).or_default().at(path.relative());
        branch.is_fact = true;
        branch.is_dir = matches!(seen.fact, Observation::Dir { .. } | Observation::Listing { .. });
        let mut notes = match &seen.fact {
            Observation::Absent if seen.own => vec!["own output".to_owned()],
            Observation::Absent => vec!["absent".to_owned()],
            Observation::Dir { .. } => Vec::new(),
            Observation::Listing { .. } => vec!["listed".to_owned()],
            Observation::File { digest, .. } => {
                branch.bytes = sizes.get(digest).copied();
                branch.bytes.map(human_bytes).into_iter().collect()
            }
            Observation::Link { target } => vec![arrow(target)],
            Observation::Opaque { kind: OpaqueKind::Unreadable, .. } => vec!["unreadable".to_owned()],
            Observation::Opaque { .. } => vec!["special".to_owned()],
        };
        if seen.own && seen.fact != Observation::Absent {
            notes.push("own output".to_owned());
        }
        branch.note = notes.join(", ");
    }
    trees
}

/// The tree of what a record left.
pub fn of_outputs(manifest: &Manifest) -> Branch {
    let mut top = Branch::default();
    for entry in &manifest.entries {
        let branch = top.at(&entry.path);
        branch.is_fact = true;
        branch.is_dir = matches!(entry.output, Output::Dir { .. });
        let mut notes = match &entry.output {
            Output::File { size, mode, .. } => {
                branch.bytes = Some(*size);
                vec![human_bytes(*size), format!("{mode:04o}")]
            }
            Output::Link { target } => vec![arrow(target)],
            Output::Dir { mode } => vec![format!("{mode:04o}")],
            Output::Removed => vec!["removed".to_owned()],
        };
        if entry.modified && entry.output != Output::Removed {
            notes.push("held something else before".to_owned());
        }
        branch.note = notes.join(", ");
    }
    top
}

/// A link's target; what stands for workspace and home in it is spelled out as such.
fn arrow(target: &[u8]) -> String {
    let shown = String::from_utf8_lossy(target).replace("\0W", "(workspace)").replace("\0H", "(home)");
    format!("-> {}", one_line(&shown.replace("\0N", "\0")))
}

impl Branch {
    fn at(&mut self, path: &[u8]) -> &mut Branch {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.fold(self, |branch, name| branch.below.entry(name.to_vec()).or_default())
    }

    /// How many facts there are, here and below.
    pub fn facts(&self) -> u64 {
        u64::from(self.is_fact) + self.below.values().map(Branch::facts).sum::<u64>()
    }

    /// The size of all files of known size, if there is one.
    pub fn size(&self) -> Option<u64> {
        self.below.values().filter_map(Branch::size).chain(self.bytes).reduce(u64::saturating_add)
    }

    /// Draws it below a first line that names the top.
    pub fn draw(&self, top: &str, out: &mut String) {
        self.line(top.trim_end_matches('/').to_owned(), "", out);
        self.draw_below("", out);
    }

    fn line(&self, name: String, before: &str, out: &mut String) {
        out.push_str(before);
        out.push_str(&name);
        if self.is_dir || !self.below.is_empty() {
            out.push('/');
        }
        if !self.note.is_empty() {
            out.push_str("  ");
            out.push_str(&self.note);
        }
        out.push('\n');
    }

    fn draw_below(&self, indent: &str, out: &mut String) {
        let mut left = self.below.len();
        for (name, mut branch) in &self.below {
            left -= 1;
            let mut name = shown(name);
            // Directories that hold one thing and are otherwise of no interest share a line with it.
            while let (true, Some((inner, only)), 1) =
                (branch.note.is_empty(), branch.below.first_key_value(), branch.below.len())
            {
                name = format!("{name}/{}", shown(inner));
                branch = only;
            }
            let (joint, below) = if left == 0 { ("└── ", "    ") } else { ("├── ", "│   ") };
            branch.line(name, &format!("{indent}{joint}"), out);
            branch.draw_below(&format!("{indent}{below}"), out);
        }
    }
}

fn shown(name: &[u8]) -> String {
    one_line(&String::from_utf8_lossy(name))
}
