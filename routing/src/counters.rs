//! Reasons why something came to nothing, with a counter for each.

/// Makes an enum of reasons, and a type that counts how often each has occurred.
macro_rules! counters {
    (
        $(#[$about_reason:meta])*
        pub enum $Reason:ident {
            $($(#[$doc:meta])* $variant:ident => $name:literal,)+
        }
        $(#[$about_counts:meta])*
        pub struct $Counts:ident;
    ) => {
        $(#[$about_reason])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $Reason {
            $($(#[$doc])* $variant,)+
        }

        impl $Reason {
            /// All of them, in the order of the enum.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The stable name for counters.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }

        $(#[$about_counts])*
        #[derive(Clone, Copy, PartialEq, Eq)]
        pub struct $Counts([u64; $Reason::ALL.len()]);

        impl Default for $Counts {
            fn default() -> Self {
                Self([0; $Reason::ALL.len()])
            }
        }

        impl $Counts {
            /// One more for this reason.
            pub(crate) const fn note(&mut self, reason: $Reason) {
                self.0[reason as usize] += 1;
            }

            /// How many for this reason.
            pub const fn count(&self, reason: $Reason) -> u64 {
                self.0[reason as usize]
            }

            /// The reasons that occurred, each with its count.
            pub fn iter(&self) -> impl Iterator<Item = ($Reason, u64)> {
                $Reason::ALL
                    .iter()
                    .map(|&reason| (reason, self.count(reason)))
                    .filter(|&(_, count)| count > 0)
            }

            /// How many in all.
            pub fn total(&self) -> u64 {
                self.0.iter().sum()
            }
        }

        impl std::ops::AddAssign for $Counts {
            fn add_assign(&mut self, other: Self) {
                for (sum, count) in self.0.iter_mut().zip(other.0) {
                    *sum += count;
                }
            }
        }

        impl std::fmt::Debug for $Counts {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_map()
                    .entries(self.iter().map(|(reason, count)| (reason.name(), count)))
                    .finish()
            }
        }
    };
}

pub(crate) use counters;
