//! Signatures in the manner of Standard Webhooks: `v1`, HMAC-SHA256 over `id.timestamp.body`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::time::Instant;

/// The lengths that Standard Webhooks allows a secret to have, in bytes.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// How old what was read from the files may be: a rotated secret counts within this time.
const READ_AGAIN: Duration = Duration::from_secs(30);

/// Why secrets cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct BadSecret {
    /// The file.
    pub file: PathBuf,
    /// What is wrong. Never holds a part of a secret.
    pub reason: String,
}

/// A secret shared with a receiver. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

impl Secret {
    /// Parses `whsec_` and the base64 of 24 to 64 bytes.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let encoded = text.strip_prefix("whsec_").ok_or("a secret has to start with whsec_")?;
        let bytes = STANDARD.decode(encoded).map_err(|_| "what follows whsec_ has to be base64")?;
        if SECRET_BYTES.contains(&bytes.len()) { Ok(Self(bytes)) } else { Err("a secret has to have 24 to 64 bytes") }
    }
}

/// The value of `webhook-signature`: one signature a secret, in their order, separated by blanks.
pub(super) fn signature(secrets: &[Secret], id: &str, timestamp: i64, body: &[u8]) -> String {
    let sign = |secret: &Secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(&secret.0).expect("HMAC takes keys of any length");
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    };
    secrets.iter().map(sign).collect::<Vec<_>>().join(" ")
}

/// The secrets of a destination, read from their files now and then so that they can be rotated.
#[derive(Debug)]
pub(super) struct Secrets {
    files: Vec<PathBuf>,
    /// When they were read.
    read: Mutex<(Instant, Vec<Secret>)>,
}

impl Secrets {
    /// Reads the files, of a few lines each.
    pub(super) fn read(files: Vec<PathBuf>) -> Result<Self, BadSecret> {
        let secrets = read_all(&files)?;
        Ok(Self { files, read: Mutex::new((Instant::now(), secrets)) })
    }

    /// The secrets as they are now. Where the files cannot be read any more the last ones go on.
    pub(super) fn current(&self) -> Vec<Secret> {
        let mut read = self.read.lock().expect("no holder of this lock panics");
        if !self.files.is_empty() && read.0.elapsed() >= READ_AGAIN {
            read.0 = Instant::now();
            match read_all(&self.files) {
                Ok(secrets) => read.1 = secrets,
                Err(error) => tracing::warn!(%error, "secrets cannot be read again, the last ones go on"),
            }
        }
        read.1.clone()
    }
}

fn read_all(files: &[PathBuf]) -> Result<Vec<Secret>, BadSecret> {
    let mut secrets = Vec::new();
    for file in files {
        let before = secrets.len();
        let bad = |reason: &dyn fmt::Display| BadSecret { file: file.clone(), reason: reason.to_string() };
        let text = read_text(file).map_err(|error| bad(&error))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            secrets.push(Secret::parse(line).map_err(|reason| bad(&reason))?);
        }
        if secrets.len() == before {
            return Err(bad(&"holds no secret; put one a line, whsec_ and the base64 of 24 to 64 bytes"));
        }
    }
    Ok(secrets)
}

#[allow(clippy::disallowed_methods, reason = "a line or two, read at start and every half minute")]
fn read_text(file: &Path) -> std::io::Result<String> {
    std::fs::read_to_string(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of the Standard Webhooks specification's reference libraries.
    #[test]
    fn signatures_agree_with_the_reference() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("valid");
        let body = br#"{"test": 2432232314}"#;
        let signed = signature(std::slice::from_ref(&secret), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let other = Secret(vec![7; 32]);
        let both = signature(&[other.clone(), secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(both.split(' ').count(), 2);
        assert!(both.ends_with(&signed) && !both.starts_with(&signed));
    }

    #[test]
    fn bad_secrets_are_refused_without_being_shown() {
        for bad in [
            "",
            "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_!!!",
            "whsec_c2hvcnQ=",
            &format!("whsec_{}", "QUFB".repeat(22)),
        ] {
            let error = Secret::parse(bad).expect_err(bad);
            assert!(bad.is_empty() || !error.contains(bad));
        }
        assert_eq!(format!("{:?}", Secret(vec![1])), "Secret(***)");
    }

    #[tokio::test(start_paused = true)]
    async fn rotated_secrets_are_picked_up_and_a_bad_file_changes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("secret");
        let line = |byte: u8| format!("whsec_{}\n", STANDARD.encode([byte; 24]));
        std::fs::write(&file, line(1)).expect("written");
        let secrets = Secrets::read(vec![file.clone()]).expect("valid");
        std::fs::write(&file, line(2) + &line(1)).expect("written");
        assert_eq!(secrets.current(), [Secret(vec![1; 24])]);
        tokio::time::advance(READ_AGAIN).await;
        assert_eq!(secrets.current(), [Secret(vec![2; 24]), Secret(vec![1; 24])]);
        std::fs::write(&file, "nonsense").expect("written");
        tokio::time::advance(READ_AGAIN).await;
        assert_eq!(secrets.current().len(), 2);
        assert!(Secrets::read(vec![file]).is_err());
        assert!(Secrets::read(vec![folder.path().join("none")]).is_err());
    }
}
