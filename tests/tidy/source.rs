//! A source file, and its code without what is said in comments and texts.

use std::path::Path;

/// A file of Rust.
pub(crate) struct Source {
    /// From the root of the repository, with `/`.
    pub(crate) path: String,
    /// As it is.
    pub(crate) text: String,
    /// The same with every comment and the inside of every literal blanked, line for line.
    pub(crate) code: String,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// The code before the file's tests.
    pub(crate) fn product(&self) -> &str {
        if self.path.ends_with("/tests.rs") {
            return "";
        }
        let end = self.code.find("#[cfg(test)]\nmod ").unwrap_or(self.code.len());
        &self.code[..end]
    }

    /// The module directly below the crate's root that the file belongs to, `None` outside `src`.
    pub(crate) fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        Some(inside.split(['/', '.']).next().unwrap_or(inside))
    }

    /// A finding in the line of this byte of the code.
    pub(crate) fn finding(&self, at: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, self.code[..at].matches('\n').count() + 1)
    }

    /// Where a word or path occurs in the product's code, whole.
    pub(crate) fn uses<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        self.product().match_indices(word).map(|(at, _)| at).filter(move |at| {
            let before = self.code[..*at].chars().next_back();
            let after = self.code[at + word.len()..].chars().next();
            let whole_before = !word.starts_with(is_name) || !before.is_some_and(is_name);
            whole_before && (!word.ends_with(is_name) || !after.is_some_and(is_name))
        })
    }
}

/// Every Rust file of the repository's own.
pub(crate) fn all() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "tests", "benches", "examples"] {
        collect(root, &root.join(folder), &mut found);
    }
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let text = std::fs::read_to_string(&path).expect("sources are UTF-8");
            let name = path.strip_prefix(root).expect("it lies below").to_string_lossy().replace('\\', "/");
            found.push(Source::new(&name, &text));
        }
    }
}

/// Blanks comments and the inside of literals; newlines stay, so that lines keep their numbers.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let previous = code.chars().next_back();
        let (kept, length) = match first {
            '/' if rest.starts_with("//") => (0, rest.find('\n').unwrap_or(rest.len())),
            '/' if rest.starts_with("/*") => (0, block_comment(rest)),
            '"' => (1, text_literal(rest)),
            'r' if !previous.is_some_and(|c| c.is_alphanumeric() || c == '_') && raw(rest).is_some() => {
                (1, raw(rest).unwrap_or(1))
            }
            '\'' => (1, char_literal(rest)),
            other => (other.len_utf8(), other.len_utf8()),
        };
        code.push_str(&rest[..kept]);
        code.extend(rest[kept..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[length..];
    }
    code
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let step = match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn text_literal(text: &str) -> usize {
    let mut escaped = false;
    let end = text.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    });
    end.map_or(text.len(), |end| end + 2)
}

/// The length of a raw text such as `r#"..."#`, `None` if it is none.
fn raw(text: &str) -> Option<usize> {
    let hashes = text[1..].bytes().take_while(|byte| *byte == b'#').count();
    let inside = text[1 + hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(inside.find(&end).map_or(text.len(), |at| 2 + hashes + at + end.len()))
}

/// The length of a character; of the mark alone where it is a lifetime's.
fn char_literal(text: &str) -> usize {
    let inside = &text[1..];
    if inside.starts_with('\\') {
        return inside[2..].find('\'').map_or(1, |at| at + 4);
    }
    let width = inside.chars().next().map_or(0, char::len_utf8);
    if inside[width..].starts_with('\'') { width + 2 } else { 1 }
}

#[test]
fn comments_and_literals_are_blanked() {
    for (text, expected) in [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"f("x // \" y") g"#, "f(\"          ) g"),
        ("r#\"a\"b\"# c", "r        c"),
        ("'\\'' 'a' 'static x", "'    '   'static x"),
        ("for_r\"x\" y", "for_r\"   y"),
    ] {
        assert_eq!(blank(text), expected, "{text}");
    }
}
