//! What this host or process may run out of while it connects to a member.

/// A failed connect that says nothing about the member: the fault is on our side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Own {
    /// Of the process, or of the host.
    Descriptors,
    /// Of the kernel, for sockets.
    Memory,
    /// Local ports towards the member's address.
    Ports,
}

impl Own {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [Self::Descriptors, Self::Memory, Self::Ports];

    /// Whether another member may be reached all the same: local ports are counted per destination.
    pub const fn is_per_member(self) -> bool {
        matches!(self, Self::Ports)
    }

    /// Its place in [`Self::ALL`].
    pub const fn index(self) -> usize {
        match self {
            Self::Descriptors => 0,
            Self::Memory => 1,
            Self::Ports => 2,
        }
    }

    /// Label of metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Memory => "memory",
            Self::Ports => "ports",
        }
    }

    /// For logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Descriptors => "out of file descriptors",
            Self::Memory => "out of memory for sockets",
            Self::Ports => "out of local ports",
        }
    }

    /// What an operator can do.
    pub const fn cure(self) -> &'static str {
        match self {
            Self::Descriptors => "raise the limit of open files",
            Self::Memory => "look at net.ipv4.tcp_mem and the host's memory",
            Self::Ports => "widen net.ipv4.ip_local_port_range, or add addresses or members",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_place_and_word() {
        for (place, own) in Own::ALL.into_iter().enumerate() {
            assert_eq!(own.index(), place);
            let same = Own::ALL.into_iter().filter(|o| o.word() == own.word());
            assert_eq!(same.count(), 1);
        }
    }
}
