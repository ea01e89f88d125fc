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
    /// Finds a user, and a group if it is not to be the user's own.
    pub fn find(user: &str, group: Option<&str>) -> Result<Identity, String> {
        let found = User::from_name(user).map_err(|e| format!("user = {user}: {e}"))?;
        let found = found.ok_or_else(|| format!("user = {user}: there is no such user"))?;
        let (gid, group) = match group {
            Some(group) => (group_id(group)?, group.to_owned()),
            None => (found.gid, group_name(found.gid)),
        };
        let name = CString::new(user).map_err(|e| format!("user = {user}: {e}"))?;
        let groups = getgrouplist(&name, gid).map_err(|e| format!("user = {user}: {e}"))?;
        let own = found.uid == getuid() && found.uid == geteuid() && gid == getgid();
        if !geteuid().is_root() && !own {
            return Err(format!("user = {user}: only root can become another user"));
        }
        Ok(Identity { user: user.to_owned(), group, uid: found.uid, gid, groups })
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

fn group_id(group: &str) -> Result<Gid, String> {
    let found = Group::from_name(group).map_err(|e| format!("group = {group}: {e}"))?;
    Ok(found.ok_or_else(|| format!("group = {group}: there is no such group"))?.gid)
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
    fn one_s_own_name_needs_no_privileges() {
        let Some(own) = User::from_uid(geteuid()).unwrap() else {
            println!("SKIPPED: this user has no name");
            return;
        };
        assert_eq!(Identity::find(&own.name, None).unwrap().user, own.name);
    }
}
