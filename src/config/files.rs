//! Files that settings name.

use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::FileTypeExt,
    path::Path,
};

/// No file of settings is larger.
const LARGEST_BYTES: u64 = 1 << 20;

/// Reads a file of settings.
///
/// # Errors
/// Says why the file at `path` cannot be read: also where reading it would never end, or wait for another program, because it is
/// no regular file.
pub(super) fn read(path: &str) -> Result<String, String> {
    let is_regular = |metadata: &fs::Metadata| match metadata.is_file() {
        true => Ok(()),
        false => Err(format!("{path} is not a regular file")),
    };
    let unreadable = |error| format!("{path} cannot be read: {error}");
    is_regular(&fs::metadata(path).map_err(unreadable)?)?; // before it is opened, which waits where it is a pipe
    let file = File::open(path).map_err(unreadable)?;
    is_regular(&file.metadata().map_err(unreadable)?)?;
    let mut text = String::new();
    file.take(LARGEST_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > LARGEST_BYTES {
        return Err(format!("{path} is larger than 1MiB"));
    }
    Ok(text)
}

/// Returns what is wrong with a file that will be read and written, if it is there.
pub(super) fn check_regular(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => Err("must be a regular file".to_owned()),
        _ => Ok(()), // made when it is needed, or reported when it is opened
    }
}

/// Returns what is wrong with a socket that will be connected to, if it is there.
pub(super) fn check_socket(path: &Path) -> Result<(), String> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => Err("must be a unix socket".to_owned()),
        _ => Ok(()), // its server may start later
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixListener};

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn what_is_no_regular_file_or_too_large_is_refused_and_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        mknodat(CWD, path("pipe"), FileType::Fifo, Mode::RWXU, 0).unwrap();
        UnixListener::bind(path("socket")).unwrap();
        for other in ["/dev/full", "/dev/zero", "/dev/null", &path("pipe"), &path("socket"), &path("")] {
            assert_eq!(read(other), Err(format!("{other} is not a regular file")));
            assert!(check_regular(other.as_ref()).is_err(), "{other}");
        }
        assert!(read(&path("missing")).unwrap_err().contains("cannot be read: "));
        assert!(check_regular(path("missing").as_ref()).is_ok() && check_socket(path("missing").as_ref()).is_ok());
        let mut file = File::create(path("file")).unwrap();
        file.write_all(&vec![b'#'; LARGEST_BYTES as usize]).unwrap();
        assert_eq!(read(&path("file")).unwrap().len() as u64, LARGEST_BYTES);
        assert!(check_regular(path("file").as_ref()).is_ok() && check_socket(path("file").as_ref()).is_err());
        assert!(check_socket(path("socket").as_ref()).is_ok());
        file.write_all(b"#").unwrap();
        assert_eq!(read(&path("file")), Err(format!("{} is larger than 1MiB", path("file"))));
    }
}
