//! What an API key may do.

/// A key's role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything.
    Admin,
}

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// It looks at something.
    Look,
    /// It changes something.
    Change,
}

impl Role {
    /// The role that the database calls so; none if this version does not know it.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        (name == Self::Admin.as_str()).then_some(Self::Admin)
    }

    /// How the database calls it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
        }
    }

    /// Whether who has it may do something of this kind.
    pub(crate) const fn may(self, access: Access) -> bool {
        match (self, access) {
            (Self::Admin, Access::Look | Access::Change) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_known_by_its_name_and_no_other_is() {
        assert_eq!(Role::parse(Role::Admin.as_str()), Some(Role::Admin));
        for unknown in ["", "Admin", "admin ", "reader"] {
            assert_eq!(Role::parse(unknown), None, "{unknown}");
        }
    }
}
