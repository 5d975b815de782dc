//! What there is and what needs what, read once before anything is decided.
//!
//! All rows are read in one transaction, so they fit together; blobs and layers are looked at around it. Whatever comes later has a later
//! `turn`, or is in a layer that has changed: `sweep` looks for both.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};

use crate::digest::Digest;
use crate::error::StoreError;
use crate::index::{HEAD, meta, names, read_head};
use crate::manifest::node_refs;
use crate::record::{OwnKey, RecordHead, RecordId, TaskKey};
use crate::{Store, disk};

/// A record, and what it needs.
pub(super) struct Entry {
    pub turn: i64,
    pub head: RecordHead,
    pub used_ms: u64,
    /// Bytes of its row that count.
    pub row_bytes: u64,
    /// The blobs that a hit needs, each once, by their numbers; none if the record is of no use any more.
    pub blobs: Option<Arc<[u32]>>,
}

/// Which record's outputs stand where.
pub(super) struct Standing {
    pub workspace: Vec<u8>,
    pub own_key: OwnKey,
    pub record: RecordId,
}

/// Everything that is marked.
pub(super) struct Marks {
    /// Records with a later turn are not among [`Marks::entries`].
    pub turn: i64,
    /// What pruning had not yet counted when this was read.
    pub added: u64,
    pub entries: Vec<Entry>,
    pub standing: Vec<Standing>,
    /// Where which task ran, as far as that is remembered.
    pub ran: Vec<(Vec<u8>, TaskKey)>,
    /// Rows that cannot be read, by their turns.
    pub damaged: Vec<i64>,
    /// The size of each trace.
    pub traces: HashMap<Digest, u64>,
    /// Every blob that lies there or is needed, by number.
    pub blobs: Vec<Digest>,
    /// Its bytes; `None` if it does not lie there.
    pub sizes: Vec<Option<u64>>,
    /// Whether a layer may show it.
    pub pinned: Vec<bool>,
    /// Tree nodes that were read, with those below them.
    pub nodes: Nodes,
}

/// The nodes of manifests: each is read once, however many records share it.
#[derive(Default)]
pub(super) struct Nodes {
    known: HashMap<Digest, Option<Arc<Node>>>,
}

struct Node {
    blobs: Vec<Digest>,
    below: Vec<Digest>,
}

impl Nodes {
    /// The blobs of a manifest, unsorted; `None` if one of its nodes is damaged or missing.
    pub fn blobs(&mut self, index: &Connection, root: &Digest) -> Result<Option<Vec<Digest>>, rusqlite::Error> {
        let (mut blobs, mut whole) = (Vec::new(), true);
        self.walk(index, root, |_, node| match node {
            Some(node) => blobs.extend_from_slice(&node.blobs),
            None => whole = false,
        })?;
        Ok(whole.then_some(blobs))
    }

    /// The nodes of a manifest, as far as they can be read.
    pub fn reach(
        &mut self,
        index: &Connection,
        root: &Digest,
        reached: &mut HashSet<Digest>,
    ) -> Result<(), rusqlite::Error> {
        if !reached.contains(root) {
            self.walk(index, root, |digest, _| {
                reached.insert(*digest);
            })?;
        }
        Ok(())
    }

    /// Meets every node of a manifest once.
    fn walk(
        &mut self,
        index: &Connection,
        root: &Digest,
        mut meet: impl FnMut(&Digest, Option<&Node>),
    ) -> Result<(), rusqlite::Error> {
        let (mut met, mut pending) = (HashSet::from([*root]), vec![*root]);
        while let Some(digest) = pending.pop() {
            let node = match self.known.get(&digest) {
                Some(node) => node.clone(),
                None => {
                    let node = read_node(index, &digest)?.map(Arc::new);
                    self.known.insert(digest, node.clone());
                    node
                }
            };
            meet(&digest, node.as_deref());
            pending.extend(node.iter().flat_map(|node| &node.below).filter(|below| met.insert(**below)));
        }
        Ok(())
    }
}

fn read_node(index: &Connection, digest: &Digest) -> Result<Option<Node>, rusqlite::Error> {
    let bytes = index
        .prepare_cached("SELECT bytes FROM trees WHERE digest = ?1")?
        .query_row([&digest.0[..]], |row| Ok(row.get_ref(0)?.as_blob().ok().map(<[u8]>::to_vec)))
        .optional()?
        .flatten()
        .filter(|bytes| Digest::of(bytes) == *digest);
    Ok(bytes.and_then(|bytes| node_refs(&bytes).ok()).map(|(blobs, below)| Node { blobs, below }))
}

/// Gives blobs their numbers.
struct Numbers {
    by_digest: HashMap<Digest, u32>,
    blobs: Vec<Digest>,
}

impl Numbers {
    fn of(&mut self, digest: Digest) -> u32 {
        *self.by_digest.entry(digest).or_insert_with(|| {
            self.blobs.push(digest);
            // Four thousand million blobs fit on no disk.
            u32::try_from(self.blobs.len() - 1).unwrap_or(u32::MAX)
        })
    }
}

impl Marks {
    pub fn take(store: &Store) -> Result<Marks, StoreError> {
        let mut numbers = Numbers { by_digest: HashMap::new(), blobs: Vec::new() };
        let mut sizes = Vec::new();
        // Blobs first: one that is placed after this is not among them, and so never removed.
        for (digest, facts) in store.blobs()? {
            numbers.of(digest);
            sizes.push(Some(facts.size));
        }
        let mut marks = Marks {
            turn: 0,
            added: 0,
            entries: Vec::new(),
            standing: Vec::new(),
            ran: Vec::new(),
            damaged: Vec::new(),
            traces: HashMap::new(),
            blobs: Vec::new(),
            sizes,
            pinned: Vec::new(),
            nodes: Nodes::default(),
        };
        {
            let index = store.index()?;
            let read = |marks: &mut Marks, numbers: &mut Numbers| -> Result<(), rusqlite::Error> {
                let snapshot = index.unchecked_transaction()?;
                marks.read(&snapshot, numbers)
            };
            read(&mut marks, &mut numbers).map_err(|error| store.index_error(error))?;
        }
        let pinned: Vec<u32> = store.pinned()?.into_iter().map(|digest| numbers.of(digest)).collect();
        marks.blobs = numbers.blobs;
        marks.sizes.resize(marks.blobs.len(), None);
        marks.pinned = vec![false; marks.blobs.len()];
        for number in pinned {
            marks.pinned[number as usize] = true;
        }
        Ok(marks)
    }

    fn read(&mut self, index: &Connection, numbers: &mut Numbers) -> Result<(), rusqlite::Error> {
        self.turn = index.query_row("SELECT ifnull(max(turn), 0) FROM records", [], |row| row.get(0))?;
        self.added = meta::get(index, meta::ADDED)?.unwrap_or(0);
        let mut manifests: HashMap<Digest, Option<Arc<[u32]>>> = HashMap::new();
        let mut query = index.prepare(&format!(
            "SELECT {HEAD}, ifnull(uses.used_ms, records.used_ms), captured IS NOT NULL, \
             length(times) + length(argv) + ifnull(length(captured), 0) FROM records LEFT JOIN uses USING (turn)"
        ))?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let Ok(checked) = read_head(row)? else {
                self.damaged.push(row.get(16)?);
                continue;
            };
            let number =
                |column| Ok::<u64, rusqlite::Error>(row.get_ref(column)?.as_i64().unwrap_or(0).cast_unsigned());
            let head = checked.head;
            let captured = (!row.get::<_, bool>(18)?).then_some(checked.captured);
            let blobs = match (head.usable, manifests.get(&head.manifest)) {
                (false, _) => None,
                (true, Some(known)) => known.clone(),
                (true, None) => {
                    let blobs = self.nodes.blobs(index, &head.manifest)?;
                    let blobs = blobs.map(|blobs| sorted(blobs.into_iter().map(|digest| numbers.of(digest))));
                    manifests.insert(head.manifest, blobs.clone());
                    blobs
                }
            };
            let blobs = match captured.filter(|_| head.usable) {
                Some(captured) => blobs.map(|blobs| {
                    let captured = numbers.of(captured);
                    sorted(blobs.iter().copied().chain([captured]))
                }),
                None => blobs,
            };
            self.entries.push(Entry { turn: row.get(16)?, used_ms: number(17)?, row_bytes: number(19)?, head, blobs });
        }
        self.standing = standing(index)?;
        let mut query = index.prepare("SELECT workspace, task_key FROM keys")?;
        let rows = query.query_map([], |row| {
            let workspace = row.get_ref(0)?.as_blob().unwrap_or_default().to_vec();
            let key = row.get_ref(1)?.as_blob().ok().and_then(|key| key.try_into().ok());
            Ok(key.map(|key| (workspace, TaskKey(Digest(key)))))
        })?;
        self.ran = rows.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        // With the names that explain them.
        let names = names::are_there(index)?.then_some("SELECT fingerprint, length(bytes) FROM names");
        for sql in ["SELECT fingerprint, length(bytes) FROM traces"].into_iter().chain(names) {
            let mut query = index.prepare(sql)?;
            let rows = query.query_map([], |row| {
                let fingerprint = row.get_ref(0)?.as_blob().ok().and_then(|bytes| bytes.try_into().ok());
                Ok(fingerprint.map(Digest).zip(row.get_ref(1)?.as_i64().ok().map(i64::cast_unsigned)))
            })?;
            for row in rows {
                if let Some((fingerprint, bytes)) = row? {
                    *self.traces.entry(fingerprint).or_default() += bytes;
                }
            }
        }
        Ok(())
    }

    /// The size of what a blob counts with.
    pub fn size(&self, blob: u32) -> u64 {
        self.sizes[blob as usize].unwrap_or(0)
    }
}

/// Which outputs stand where.
pub(super) fn standing(index: &Connection) -> Result<Vec<Standing>, rusqlite::Error> {
    let mut query = index.prepare_cached("SELECT workspace, own_key, record_id FROM last")?;
    let rows = query.query_map([], |row| {
        let digest =
            |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_blob().ok().and_then(|id| id.try_into().ok()));
        let workspace = row.get_ref(0)?.as_blob().unwrap_or_default().to_vec();
        let (own_key, record): (Option<[u8; 32]>, Option<[u8; 32]>) = (digest(1)?, digest(2)?);
        Ok(own_key.zip(record).map(|(own_key, record)| Standing {
            workspace,
            own_key: OwnKey(Digest(own_key)),
            record: RecordId(Digest(record)),
        }))
    })?;
    rows.filter_map(Result::transpose).collect()
}

fn sorted(blobs: impl Iterator<Item = u32>) -> Arc<[u32]> {
    let mut blobs: Vec<u32> = blobs.collect();
    blobs.sort_unstable();
    blobs.dedup();
    blobs.into()
}

/// What tells that layers have changed: the names of their logs with what the disk says of them.
pub(super) type LayerStamps = Vec<(Digest, u64, u64, std::time::SystemTime)>;

impl Store {
    /// The present stamps of all layers. A record that is appended makes its log longer; one that is written anew is another file.
    pub(super) fn layer_stamps(&self) -> Result<LayerStamps, StoreError> {
        let mut stamps = Vec::new();
        for layer in self.layers()? {
            let path = self.layer_log(&layer);
            match disk::stat(&path) {
                Ok(facts) => stamps.push((layer, facts.inode, facts.size, facts.modified)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(StoreError::disk("read the attributes of", path)(error)),
            }
        }
        Ok(stamps)
    }
}
