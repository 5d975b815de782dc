//! A page of `docs/` whose examples are run: files to be written, and commands with what they print.
//!
//! `<!-- file: NAME -->` before a block makes it a file. Blocks of kind `console` hold commands behind `$ ` and, below each, its output. Of
//! wink's own lines the page shows how it went and why, not the record and the times.

use std::fs;
use std::path::Path;

/// One thing that a page holds.
#[derive(Clone, Debug)]
pub enum Item {
    File { name: String, text: String },
    Commands(Vec<(String, Vec<String>)>),
}

/// The items of one section (`## TITLE`).
pub fn section(page: &str, title: &str) -> Vec<Item> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = fs::read_to_string(&path).unwrap();
    let body = text.split("\n## ").find(|part| part.lines().next() == Some(title));
    let body = body.unwrap_or_else(|| panic!("no section {title} in {page}"));
    let mut items = Vec::new();
    let mut name = None;
    let mut lines = body.lines();
    while let Some(line) = lines.next() {
        if let Some(marked) = line.strip_prefix("<!-- file: ").and_then(|rest| rest.strip_suffix(" -->")) {
            name = Some(marked.to_owned());
        } else if let Some(kind) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            match (name.take(), kind) {
                (Some(name), _) => items.push(Item::File { name, text: block.join("\n") + "\n" }),
                (None, "console") => items.push(Item::Commands(commands(&block))),
                _ => {}
            }
        }
    }
    items
}

fn commands(block: &[&str]) -> Vec<(String, Vec<String>)> {
    let mut commands: Vec<(String, Vec<String>)> = Vec::new();
    for line in block {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
            (None, Some((_, output))) => output.push((*line).to_owned()),
            (None, None) => panic!("output before any command: {line}"),
        }
    }
    commands
}

/// The file of this name among the items.
pub fn file<'i>(items: &'i [Item], wanted: &str) -> &'i str {
    let found = items.iter().find_map(|item| match item {
        Item::File { name, text } if name == wanted => Some(text.as_str()),
        _ => None,
    });
    found.unwrap_or_else(|| panic!("no file {wanted} on the page"))
}

/// A line of output as the page shows it.
pub fn shown(line: &str) -> String {
    let Some(rest) = line.strip_prefix("wink: ") else { return line.to_owned() };
    let rest = rest.split(" · ").next().unwrap_or_default();
    let is_record = |word: &str| word.len() == 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words: Vec<&str> = rest.split(' ').filter(|word| !is_record(word)).collect();
    format!("wink: {}", words.join(" "))
}
