//! Who the phases run as: the image's `USER`, looked up in the image's own `/etc/passwd` and `/etc/group`.
//!
//! It is done in the container, where these files are what the image says and nothing has to be asked of an
//! engine. Root, and root's group, are refused unless the order allows them: what the launcher keeps from
//! phases is kept by their not being root.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};

/// The largest of both files.
const MAX_FILE: u64 = 4 * 1024 * 1024;
/// The largest id that every system call takes for one.
const MAX_ID: u32 = i32::MAX.cast_unsigned();
/// How much of what an image says stands in a message.
const SHOWN: usize = 64;

/// Who the phases run as. They have no group beside `gid`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// `HOME`, unless the environment sets another.
    pub(crate) home: String,
}

impl Default for User {
    /// Where an image names nobody.
    fn default() -> Self {
        Self { uid: 1983, gid: 1983, home: "/home/spacelift".to_owned() }
    }
}

/// Why nothing runs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoUser {
    #[error(
        "the image wants to run as {spelled:?}, and its {file} does not know {name:?}: give user and group by number"
    )]
    Unknown { spelled: String, file: &'static str, name: String },
    #[error("the image wants to run as {spelled:?}, and {name} is no id: ids go up to {MAX_ID}")]
    NoId { spelled: String, name: String },
    #[error(
        "the image wants to run as {spelled:?}, which is root or root's group ({uid}:{gid}): give it a USER and a group of its own, or set GANTRY_ALLOW_ROOT=true for its launchers"
    )]
    Root { spelled: String, uid: u32, gid: u32 },
    #[error("cannot read the image's {file}")]
    File { file: &'static str, source: io::Error },
}

/// Finds the user that an image spells as `user`, `user:group` or not at all, in the files of `etc`.
pub(crate) fn find(spelled: &str, may_be_root: bool, etc: &Path) -> Result<User, NoUser> {
    let (name, group) = spelled.split_once(':').unwrap_or((spelled, ""));
    let shown = || shorten(spelled);
    let mut user = if name.is_empty() { User::default() } else { known(name, spelled, etc)? };
    if !group.is_empty() {
        user.gid = group_in(&read(etc, "group")?, group)
            .or_else(|| id(group))
            .ok_or_else(|| unknown(spelled, "/etc/group", group))?;
    }
    if let Some(out) = [user.uid, user.gid].into_iter().find(|id| *id > MAX_ID) {
        return Err(NoUser::NoId { spelled: shown(), name: out.to_string() });
    }
    if (user.uid == 0 || user.gid == 0) && !may_be_root {
        return Err(NoUser::Root { spelled: shown(), uid: user.uid, gid: user.gid });
    }
    Ok(user)
}

/// Where an engine thinks that the worker binary is at home, which it starts as root.
pub(crate) fn home_of_root(etc: &Path) -> String {
    let passwd = read(etc, "passwd").unwrap_or_default();
    user_in(&passwd, "0").map_or_else(|| "/".to_owned(), |root| root.home)
}

fn known(name: &str, spelled: &str, etc: &Path) -> Result<User, NoUser> {
    if let Some(user) = user_in(&read(etc, "passwd")?, name) {
        return Ok(user);
    }
    let uid = id(name).ok_or_else(|| unknown(spelled, "/etc/passwd", name))?;
    // Not root's group, as engines have it: nobody asked for that.
    Ok(User { uid, gid: uid, home: User::default().home })
}

/// The line of that name; only if there is none, the line of that number.
fn user_in(passwd: &str, name: &str) -> Option<User> {
    let lines = || {
        passwd.lines().filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [known, _, uid, gid, _, home, ..] = fields[..] else { return None };
            let user = User { uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() };
            Some((known, user))
        })
    };
    let named = lines().find(|(known, _)| *known == name);
    let found = named.or_else(|| lines().find(|(_, user)| Some(user.uid) == id(name)));
    found.map(|(_, user)| user)
}

fn group_in(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        let [known, _, gid, ..] = fields[..] else { return None };
        (known == name).then(|| gid.parse().ok()).flatten()
    })
}

/// Digits alone: `+0` is no number of ours.
fn id(text: &str) -> Option<u32> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn unknown(spelled: &str, file: &'static str, name: &str) -> NoUser {
    NoUser::Unknown { spelled: shorten(spelled), file, name: shorten(name) }
}

fn shorten(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// A file of the image; empty if it has none. What is no file, or too large to be one, is refused.
fn read(etc: &Path, name: &'static str) -> Result<String, NoUser> {
    let file = if name == "group" { "/etc/group" } else { "/etc/passwd" };
    let read = || -> io::Result<String> {
        // An image may have a pipe there, and nobody would ever write into it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match openat(CWD, etc.join(name), flags, Mode::empty()) {
            Ok(opened) => opened,
            Err(rustix::io::Errno::NOENT) => return Ok(String::new()),
            Err(error) => return Err(error.into()),
        };
        if !FileType::from_raw_mode(fstat(&opened)?.st_mode).is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let mut content = Vec::new();
        File::from(opened).take(MAX_FILE + 1).read_to_end(&mut content)?;
        if content.len() as u64 > MAX_FILE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(String::from_utf8_lossy(&content).into_owned())
    };
    read().map_err(|source| NoUser::File { file, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:7::/root:/bin/sh\n\
        spacelift:x:1983:1984::/home/s:/bin/sh\n0:x:77:78::/zero:/bin/sh\napp:x:1001:0::/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nstaff:x:50:spacelift\n";

    fn found(spelled: &str, may_be_root: bool) -> Result<(u32, u32, String), String> {
        let etc = tempfile::tempdir().unwrap();
        std::fs::write(etc.path().join("passwd"), PASSWD).unwrap();
        std::fs::write(etc.path().join("group"), GROUP).unwrap();
        let found = find(spelled, may_be_root, etc.path()).map_err(|error| error.to_string());
        found.map(|user| (user.uid, user.gid, user.home))
    }

    #[test]
    fn an_image_s_user_is_found_by_name_and_by_number() {
        let user = |uid, gid, home: &str| Ok((uid, gid, home.to_owned()));
        assert_eq!(found("", false), user(1983, 1983, "/home/spacelift"));
        assert_eq!(found("spacelift", false), user(1983, 1984, "/home/s"));
        assert_eq!(found("1983", false), user(1983, 1984, "/home/s"));
        assert_eq!(found("1983:7", false), user(1983, 7, "/home/s"));
        assert_eq!(found("spacelift:staff", false), user(1983, 50, "/home/s"));
        assert_eq!(found("spacelift:", false), user(1983, 1984, "/home/s"));
        assert_eq!(found("5", false), user(5, 5, "/home/spacelift"));
        // A name of digits is a name first.
        assert_eq!(found("0", false), user(77, 78, "/zero"));
    }

    /// However it is spelled, and whether it is the user or the group.
    #[test]
    fn root_and_its_group_are_refused_unless_they_are_allowed() {
        for spelled in ["root", "toor", "00", "app", "1983:0", "1983:root", ":0", "5:00"] {
            let refused = found(spelled, false).unwrap_err();
            assert!(refused.contains("GANTRY_ALLOW_ROOT"), "{spelled}: {refused}");
            found(spelled, true).unwrap();
        }
    }

    #[test]
    fn what_the_image_does_not_know_is_said() {
        for (spelled, file) in [("nobody", "/etc/passwd"), ("spacelift:none", "/etc/group")] {
            let refused = found(spelled, false).unwrap_err();
            assert!(refused.contains(file) && refused.contains("by number"), "{refused}");
        }
        for spelled in ["4294967295", "2147483648", "5:4294967295"] {
            assert!(found(spelled, true).unwrap_err().contains("is no id"), "{spelled}");
        }
        for spelled in ["-1", "+0", "4294967296"] {
            assert!(found(spelled, true).unwrap_err().contains("does not know"), "{spelled}");
        }
    }

    #[test]
    fn an_image_without_the_files_has_numbers_only_and_no_pipe_in_their_place_is_waited_for() {
        let etc = tempfile::tempdir().unwrap();
        assert_eq!(find("5", false, etc.path()).unwrap().uid, 5);
        assert!(matches!(find("x", false, etc.path()), Err(NoUser::Unknown { .. })));
        rustix::fs::mkfifoat(CWD, etc.path().join("passwd"), Mode::RWXU).unwrap();
        assert!(matches!(find("5", false, etc.path()), Err(NoUser::File { .. })));
    }
}
