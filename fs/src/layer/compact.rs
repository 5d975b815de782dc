//! The shortest way to say a layer again: packs of which enough is left are attached as they were, then the rest is put right entry
//! by entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use wink_store::{Output, Step};

use super::source::{Source, join};
use super::{Layer, Node, Shown, Virtual, above};

/// What is left of one attaching.
struct Left {
    source: Arc<Source>,
    entries: usize,
    /// Directories that stand whole, but elsewhere.
    moved: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Layer {
    /// Steps that make a layer which shows the same as this one from nothing. Inode numbers are the same too, except of entries that moved
    /// apart from the rest of their pack and of directories that took the place of others.
    pub fn steps(&self) -> Vec<Step> {
        let (mut made, mut steps) = (Layer::new(), Vec::new());
        for Left { source, entries, moved } in self.left() {
            // One step for each entry that is left, or one for all and one for each that is not.
            if entries <= 1 + moved.len() + source.pack.entries.len().saturating_sub(entries) {
                continue;
            }
            steps.push(Step::Attach {
                at: source.at.to_vec(),
                pack: source.digest,
                first_ns: source.first_ns,
                step_ns: source.step_ns,
            });
            made.attach(source);
            for (from, to) in moved {
                made.shift(&from, &to);
                steps.push(Step::Move { from, to });
            }
        }
        steps.extend(made.towards(self.clone()));
        steps
    }

    /// What is left of each pack, in the order in which they were attached.
    fn left(&self) -> Vec<Left> {
        let mut all: BTreeMap<u64, Left> = BTreeMap::new();
        for (path, node) in &self.nodes {
            let (source, entries, moved) = match node {
                Node::Own { source: None, .. } => continue,
                Node::Own { source: Some(source), .. } => (source, 1, None),
                Node::Shared { shown, source, dir } => {
                    let home = join(&source.at, dir);
                    let entries = usize::from(shown.is_some()) + source.run(dir).len();
                    (source, entries, (home != *path).then(|| (home, path.clone())))
                }
            };
            let left = all.entry(source.order).or_insert_with(|| Left {
                source: source.clone(),
                entries: 0,
                moved: Vec::new(),
            });
            left.entries += entries;
            left.moved.extend(moved);
        }
        all.into_values().collect()
    }

    /// The steps from this layer to `wanted`.
    fn towards(mut self, mut wanted: Layer) -> Vec<Step> {
        let mut steps = Vec::new();
        align(&mut self, &mut wanted);
        for path in self.nodes.keys().cloned().collect::<Vec<_>>() {
            // It may be gone with what was above it.
            if !self.nodes.contains_key(&path) || wanted.nodes.contains_key(&path) {
                continue;
            }
            let mut top = path.as_slice();
            while !above(top).is_empty() && wanted.get(above(top)).is_none() {
                top = above(top);
            }
            self.take(top);
            steps.push(Step::Remove { path: top.to_vec() });
        }
        align(&mut self, &mut wanted);
        for (path, node) in wanted.nodes {
            let Node::Own { shown, .. } = node else { continue };
            if self.nodes.get(&path).and_then(Node::shown).is_none_or(|there| !there.is(&shown)) {
                steps.push(Step::Put { path, output: output(&shown), mtime_ns: shown.born.0 });
            }
        }
        steps
    }
}

/// Splits pointers until those that are left in one layer are in the other as well.
fn align(one: &mut Layer, two: &mut Layer) {
    let unlike = |layer: &Layer, other: &Layer| -> Vec<Vec<u8>> {
        let pointers = layer.nodes.iter().filter(|(_, node)| matches!(node, Node::Shared { .. }));
        let unlike = pointers.filter(|(path, node)| other.nodes.get(*path).is_none_or(|other| !is_same(node, other)));
        unlike.map(|(path, _)| path.clone()).collect()
    };
    loop {
        let (in_one, in_two) = (unlike(one, two), unlike(two, one));
        if in_one.is_empty() && in_two.is_empty() {
            return;
        }
        in_one.iter().for_each(|path| one.split(path));
        in_two.iter().for_each(|path| two.split(path));
    }
}

fn is_same(one: &Node, two: &Node) -> bool {
    match (one, two) {
        (Node::Shared { shown: a, source, dir }, Node::Shared { shown: b, source: other, dir: other_dir }) => {
            let shown = match (a, b) {
                (Some(a), Some(b)) => a.is(b),
                (a, b) => a.is_none() && b.is_none(),
            };
            shown && source.is(other) && dir == other_dir
        }
        _ => false,
    }
}

/// What a step says of an entry.
fn output(shown: &Shown) -> Output {
    match &shown.entry {
        Virtual::File { digest, size, mode, .. } => Output::File { digest: *digest, size: *size, mode: *mode },
        Virtual::Link { target, .. } => Output::Link { target: target.to_vec() },
        Virtual::Dir { mode, .. } => Output::Dir { mode: *mode },
        // No node holds a way.
        Virtual::Way => Output::Removed,
    }
}
