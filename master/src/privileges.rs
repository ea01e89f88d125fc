//! Whom the workers run as. The master stays root: it binds, opens and forks. Each worker gives
//! its privileges up for good as its first step.

use std::ffi::CString;
use std::io;

use nix::sys::prctl::set_no_new_privs;
use nix::unistd::{
    Gid, Group, Uid, User, geteuid, getgid, getgrouplist, getuid, setgroups, setresgid, setresuid,
};

/// A user and its groups, as the system's tables have them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user's name.
    pub user: String,
    /// The main group's name.
    pub group: String,
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Identity {
    /// Finds a user, and a group if it is not to be the user's own. Numbers need no entry in the
    /// system's tables; a user without one needs a group.
    pub fn find(user: &str, group: Option<&str>) -> Result<Identity, String> {
        let refused = |why: &str| format!("user = {user}: {why}");
        let entry = User::from_name(user).map_err(|e| refused(e.desc()))?;
        let uid = match (&entry, id_number(user)) {
            (Some(entry), _) => entry.uid,
            (None, Some(number)) => Uid::from_raw(number),
            (None, None) => return Err(refused("there is no such user")),
        };
        let entry = match entry {
            Some(entry) => Some(entry),
            None => User::from_uid(uid).map_err(|e| refused(e.desc()))?,
        };
        let (gid, group) = match (group, &entry) {
            (Some(group), _) => (group_id(group)?, group.to_owned()),
            (None, Some(entry)) => (entry.gid, group_name(entry.gid)),
            (None, None) => return Err(refused("this number has no group of its own: set group")),
        };
        let groups = match entry {
            Some(entry) => groups_of(&entry, gid).map_err(|e| refused(&e.to_string()))?,
            None => vec![gid],
        };
        let own = uid == getuid() && uid == geteuid() && gid == getgid();
        if !geteuid().is_root() && !own {
            return Err(refused("only root can become another user"));
        }
        Ok(Identity { user: user.to_owned(), group, uid, gid, groups })
    }

    /// Becomes this user for good. With the last user id 0 all capabilities go: capabilities(7).
    pub(crate) fn assume(&self) -> io::Result<()> {
        if geteuid().is_root() {
            setgroups(&self.groups)?;
            setresgid(self.gid, self.gid, self.gid)?;
            setresuid(self.uid, self.uid, self.uid)?;
        }
        set_no_new_privs()?;
        if !self.uid.is_root()
            && setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)).is_ok()
        {
            return Err(io::Error::other("privileges could be taken back"));
        }
        Ok(())
    }
}

fn groups_of(entry: &User, gid: Gid) -> io::Result<Vec<Gid>> {
    Ok(getgrouplist(&CString::new(entry.name.as_bytes())?, gid)?)
}

/// A name counts before a number, as for chown(1).
fn group_id(group: &str) -> Result<Gid, String> {
    let found = Group::from_name(group).map_err(|e| format!("group = {group}: {e}"))?;
    let number = || id_number(group).map(Gid::from_raw);
    let gid = found.map(|found| found.gid).or_else(number);
    gid.ok_or_else(|| format!("group = {group}: there is no such group"))
}

/// Digits alone. The largest number means "as it is" to setresuid(2), and is nobody's.
fn id_number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?.filter(|number| *number != u32::MAX)
}

fn group_name(gid: Gid) -> String {
    let found = Group::from_gid(gid).ok().flatten();
    found.map_or_else(|| gid.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_names_are_refused() {
        let error = Identity::find("no-such-user", None).unwrap_err();
        assert_eq!(error, "user = no-such-user: there is no such user");
        if geteuid().is_root() {
            let error = Identity::find("root", Some("no-such-group")).unwrap_err();
            assert_eq!(error, "group = no-such-group: there is no such group");
        } else {
            println!("SKIPPED in part: not root");
        }
    }

    #[test]
    fn numbers_are_digits_alone_and_never_the_one_that_means_no_change() {
        for text in ["", "+5", "-1", "0x10", "5 ", "4294967295", "4294967296"] {
            assert_eq!(id_number(text), None, "{text}");
        }
        assert_eq!(id_number("4294967294"), Some(u32::MAX - 1));
    }

    #[test]
    fn numbers_need_no_entry_but_a_group() {
        if !geteuid().is_root() {
            println!("SKIPPED: not root");
            return;
        }
        let found = Identity::find("54321", Some("65432")).unwrap();
        assert_eq!((found.uid, found.gid), (Uid::from_raw(54321), Gid::from_raw(65432)));
        assert_eq!(found.groups, [Gid::from_raw(65432)]);
        let error = Identity::find("54321", None).unwrap_err();
        assert_eq!(error, "user = 54321: this number has no group of its own: set group");
        let (named, number) = (Identity::find("root", None), Identity::find("0", None));
        let (named, number) = (named.unwrap(), number.unwrap());
        assert_eq!((named.gid, named.groups), (number.gid, number.groups));
    }

    #[test]
    fn one_s_own_name_needs_no_privileges() {
        let Some(own) = User::from_uid(geteuid()).unwrap() else {
            println!("SKIPPED: this user has no name");
            return;
        };
        assert_eq!(Identity::find(&own.name, None).unwrap().user, own.name);
    }
}
