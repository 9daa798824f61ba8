//! The numbers: first those of the protocol (WireGuard white paper, section 6.1), then those of this implementation.

use std::time::Duration;

// ---- the protocol ----

/// Messages sealed with one keypair after which a new one is asked for.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;

/// Messages after which a keypair is not used at all: neither to seal nor to open.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Age of a keypair at which its initiator asks for a new one when it sends.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);

/// Age at which a keypair is not used any more.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);

/// How long an initiation is retried without an answer.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);

/// How long one initiation waits for its answer, and the least time between two of them to one peer.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);

/// Data that was received is answered within this time, by an empty packet if there is nothing else to say.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Age at which the initiator asks for a new keypair when it receives, since it may have nothing to send.
pub const REKEY_ON_RECEIVE: Duration = REJECT_AFTER_TIME.saturating_sub(SILENCE_TIMEOUT);

/// Data was sent and nothing authenticated came back for this long: the session is suspect, a new handshake is due.
pub const SILENCE_TIMEOUT: Duration = KEEPALIVE_TIMEOUT.saturating_add(REKEY_TIMEOUT);

/// Keys are forgotten when no new ones were agreed on for this long.
pub const KEY_LIFETIME: Duration = Duration::from_secs(3 * 180);

/// Most jitter added to a retry, so that two nodes which started together do not stay in step.
pub const JITTER: Duration = Duration::from_millis(333);

/// Least time between two initiations accepted from one peer (kernel module: 50 a second).
pub const INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// Packets are padded to a multiple of this many bytes before they are sealed.
pub const PADDING: usize = 16;

/// What sealing adds: 16 bytes of header and 16 of authentication tag.
pub const OVERHEAD: usize = 32;

/// Length of a handshake initiation (type 1).
pub const INITIATION_LEN: usize = 148;

/// Length of a handshake response (type 2).
pub const RESPONSE_LEN: usize = 92;

/// Length of a cookie reply (type 3).
pub const COOKIE_LEN: usize = 64;

/// How long the secret behind our cookies is used (white paper, section 5.4.7).
pub const COOKIE_SECRET_TIME: Duration = Duration::from_secs(120);

/// How long a cookie of the secret before is still taken, for what is on its way.
pub const COOKIE_GRACE: Duration = Duration::from_secs(5);

// ---- this implementation ----

/// Handshake messages that one source (an IPv4 address or an IPv6 /64) may send: one in this time on average (kernel module:
/// 20 a second).
pub const SOURCE_INTERVAL: Duration = Duration::from_millis(50);

/// Handshake messages that one source may send at once (kernel module).
pub const SOURCE_BURST: u32 = 5;

/// For how long every source has to prove its address after too many handshake messages have waited (kernel module).
pub const LOAD_TIME: Duration = Duration::from_secs(1);

/// Most peers of one device: each takes about 5 KB once it has talked, so the table stays below 100 MB.
pub const MAX_PEERS: usize = 16_384;

/// Pause between two initiations to a peer that is wanted always and did not answer for [`REKEY_ATTEMPT_TIME`]: it may be
/// switched off for days, and then one small packet four times a minute finds it again soon enough.
pub const PATIENT_RETRY: Duration = Duration::from_secs(15);

/// After how many unanswered initiations names are worth resolving again (three take about as long as [`PATIENT_RETRY`]).
pub const TRIES_PER_UNANSWERED: u32 = 3;

/// How long an initiation over the overlay waits for its answer, for [`QUICK_TIME`]: where routes have just come, those back may come a
/// moment later, and nodes of the mesh answer each other as often as [`INITIATION_INTERVAL`] allows. So long, too, an answer over the overlay
/// may remain without sign that it has arrived, before the one who gave it asks for a session of its own.
pub const QUICK_RETRY: Duration = Duration::from_secs(1);

/// See [`QUICK_RETRY`].
pub const QUICK_TIME: Duration = Duration::from_secs(15);

/// After so many initiations over the overlay that were not answered, it is said that the way may be to blame: one or two may be lost.
pub const MISSED_TRIES: u32 = 4;

/// The same of answers that were not taken up: so few that the initiator, who may have changed its way meanwhile, is still asking by it.
pub const MISSED_ANSWERS: u32 = 3;

/// How many initiations go to the endpoint that worked last before other known endpoints get their turn: one may be lost.
pub const TRIES_AT_PROVEN: u32 = 2;

/// Age at which the responder of an idle session that is wanted always asks for a new keypair itself. Its initiator does so
/// at [`REKEY_AFTER_TIME`] if it too wants the session always; this leaves it six tries, and us as many.
pub const RENEW_AS_RESPONDER: Duration = Duration::from_secs(150);

/// Most initiations in each [`RESUME_INTERVAL`] after a pause: some 30 ms of work, and no burst that a small uplink drops.
pub const RESUME_BURST: u64 = 100;

/// See [`RESUME_BURST`]. 1,000 sessions are renewed within 2.5 s.
pub const RESUME_INTERVAL: Duration = Duration::from_millis(250);
