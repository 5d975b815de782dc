//! The names behind the listings of a trace. A trace holds the digest of each listing alone, which decides; the names explain which of them
//! appeared or went. Only an explanation: nothing is decided by them, and losing them costs nothing else.
//!
//! ```text
//! names   = "wK1" listings:number listing*     listing: string, the very bytes whose digest an observation holds
//! ```
//! The table is made when it is first needed, so an index that has none is as good, and a trigger removes a row with its trace.

use rusqlite::{Connection, OptionalExtension, params};

use super::meta;
use crate::Store;
use crate::codec::{DecodeError, Reader, Writer};
use crate::digest::Digest;
use crate::error::StoreError;
use crate::trace::{decode_listing, encode_listing};

const HEADER: &[u8] = b"wK1";

/// How many bytes of names are kept for one trace; the listings that fit in come by size, smallest first. A directory of ten thousand
/// names takes about two hundred thousand bytes.
pub const NAMES_BYTES_MAX: usize = 512 * 1024;

/// How many listings one trace may have names for.
const LISTINGS_MAX: usize = 256 * 1024;

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS names (fingerprint BLOB PRIMARY KEY NOT NULL, bytes BLOB NOT NULL);
CREATE TRIGGER IF NOT EXISTS names_go_with_traces AFTER DELETE ON traces BEGIN
    DELETE FROM names WHERE fingerprint = OLD.fingerprint;
END;
";

/// Names of a directory with the letters of their kinds.
pub type Names = Vec<(Vec<u8>, u8)>;

impl Store {
    /// Keeps the names behind listings of a stored trace. What is kept already stays.
    pub fn keep_names(&self, fingerprint: &Digest, listings: Vec<Names>) -> Result<(), StoreError> {
        let bytes = encode(listings);
        self.change(|change| {
            change.execute_batch(TABLE)?;
            change
                .prepare_cached(
                    "INSERT OR IGNORE INTO names (fingerprint, bytes) \
                     SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM traces WHERE fingerprint = ?1)",
                )?
                .execute(params![&fingerprint.0[..], bytes])?;
            meta::add(change, meta::ADDED, bytes.len() as u64)
        })
    }

    /// The names behind the listings of a trace, by the digest of each; none where they were not kept, or are damaged.
    pub fn names(&self, fingerprint: &Digest) -> Result<Vec<(Digest, Names)>, StoreError> {
        let index = self.index()?;
        if !are_there(&index).map_err(|error| self.index_error(error))? {
            return Ok(Vec::new());
        }
        let bytes = index
            .prepare_cached("SELECT bytes FROM names WHERE fingerprint = ?1")
            .and_then(|mut query| {
                query
                    .query_row([&fingerprint.0[..]], |row| Ok(row.get_ref(0)?.as_blob().ok().map(<[u8]>::to_vec)))
                    .optional()
            })
            .map_err(|error| self.index_error(error))?;
        Ok(bytes.flatten().and_then(|bytes| decode(&bytes).ok()).unwrap_or_default())
    }
}

/// Whether there is a table of them.
pub(crate) fn are_there(index: &Connection) -> Result<bool, rusqlite::Error> {
    index.prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'names'")?.exists([])
}

fn encode(listings: Vec<Names>) -> Vec<u8> {
    let mut encoded: Vec<Vec<u8>> = listings.into_iter().map(|mut names| encode_listing(&mut names)).collect();
    encoded.sort_by(|one, other| one.len().cmp(&other.len()).then(one.cmp(other)));
    encoded.dedup();
    let mut room = NAMES_BYTES_MAX;
    encoded.retain(|listing| match room.checked_sub(listing.len()) {
        Some(rest) => {
            room = rest;
            true
        }
        None => false,
    });
    encoded.truncate(LISTINGS_MAX);
    let mut out = Writer::new(HEADER);
    out.count(encoded.len());
    encoded.iter().for_each(|listing| out.string(listing));
    out.finish()
}

fn decode(bytes: &[u8]) -> Result<Vec<(Digest, Names)>, DecodeError> {
    let mut input = Reader::new(bytes, HEADER)?;
    let mut listings = Vec::new();
    for _ in 0..input.count(1, LISTINGS_MAX)? {
        let listing = input.string(NAMES_BYTES_MAX)?;
        listings.push((Digest::of(listing), decode_listing(listing)?));
    }
    input.finish()?;
    Ok(listings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::listing_digest;

    fn names(list: &[&str]) -> Names {
        list.iter().map(|name| (name.as_bytes().to_vec(), b'f')).collect()
    }

    #[test]
    fn listings_come_back_under_their_digests() {
        let (one, two) = (names(&["a", "b\u{fffd}"]), names(&[]));
        let back = decode(&encode(vec![one.clone(), two.clone(), one.clone()])).unwrap();
        assert_eq!(back.len(), 2);
        for mut wanted in [one, two] {
            let digest = listing_digest(&mut wanted);
            assert!(back.contains(&(digest, wanted)));
        }
    }

    #[test]
    fn what_is_too_large_is_left_out() {
        let small = names(&["a"]);
        let large: Names =
            (0..NAMES_BYTES_MAX / 10).map(|number| (format!("{number:010}").into_bytes(), b'f')).collect();
        assert_eq!(decode(&encode(vec![large, small.clone()])).unwrap().len(), 1);
    }

    #[test]
    fn they_go_with_their_trace() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let fingerprint = Digest::of(b"trace");
        assert!(store.names(&fingerprint).unwrap().is_empty(), "no table yet");
        store.keep_names(&fingerprint, vec![names(&["a"])]).unwrap();
        assert!(store.names(&fingerprint).unwrap().is_empty(), "there is no such trace");
        let trace = |sql: &str| {
            store.change(|change| change.execute(sql, params![&fingerprint.0[..]])).unwrap();
        };
        trace("INSERT INTO traces (fingerprint, bytes) VALUES (?1, x'00')");
        store.keep_names(&fingerprint, vec![names(&["a"])]).unwrap();
        assert_eq!(store.names(&fingerprint).unwrap().len(), 1);
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.names(&fingerprint).unwrap().len(), 1);
        store.change(|change| change.execute("DELETE FROM traces", [])).unwrap();
        assert!(store.names(&fingerprint).unwrap().is_empty());
    }

    #[test]
    fn damaged_names_are_none() {
        let good = encode(vec![names(&["a", "b"])]);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            // Either it is refused, or it is a listing of another digest, which explains nothing.
            if let Ok(listings) = decode(&bad) {
                let mut wanted = names(&["a", "b"]);
                let digest = listing_digest(&mut wanted);
                assert!(listings.iter().all(|(found, names)| *found != digest || *names == wanted), "byte {at}");
            }
        }
    }
}
