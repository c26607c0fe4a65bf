//! Secrets, which come from files and from nowhere else: not from the command line, where every
//! user of the machine sees them, and not from the environment, which is inherited and dumped.

use std::path::Path;

/// The first line of the file without blanks around it.
///
/// # Errors
///
/// With the path, where it cannot be read or is empty.
pub fn read(path: &Path) -> Result<String, String> {
    lines(path).map(|lines| lines.into_iter().next().unwrap_or_default())
}

/// All lines of the file that hold something and do not start with `#`, at least one.
///
/// # Errors
///
/// As [`read`].
pub fn lines(path: &Path) -> Result<Vec<String>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    if lines.is_empty() { Err(format!("{} holds nothing", path.display())) } else { Ok(lines) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_hold_something_count() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, "# ours\n\n  hush \nolder\n").expect("it can be written");
        assert_eq!(read(&path), Ok("hush".to_owned()));
        assert_eq!(lines(&path), Ok(vec!["hush".to_owned(), "older".to_owned()]));
        std::fs::write(&path, "\n#\n").expect("it can be written");
        assert!(read(&path).is_err_and(|error| error.contains("holds nothing")));
        assert!(read(&folder.path().join("none")).is_err_and(|error| error.contains("cannot be read")));
    }
}
