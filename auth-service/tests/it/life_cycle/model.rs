//! Predicts every response in a few lines, without a store, signatures or HTTP. Times are in seconds, clients and
//! keys are numbers, and a scope is either the whole scope or a part of it.

/// Lifetimes in seconds. The test sets the lifetime of refresh tokens, and the others are the defaults.
const CODE: u64 = 60;
const ACCESS: u64 = 3600;
const REFRESH: u64 = 30 * 86_400;
/// How long a redeemed code is remembered after its expiry.
const REMEMBERED: u64 = 3600;
const GRACE: u64 = 120;
const DEVICE: u64 = 600;

/// The number of clients that can be disabled. Their numbers are 0 and 1.
pub(super) const CLIENTS: usize = 2;
/// The numbers of the other clients.
pub(super) const DEVICE_CLIENT: usize = 2;
pub(super) const MACHINE: usize = 3;
pub(super) const SERVICE: usize = 4;

/// The expected response from the service to a token request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// Tokens are issued. `repeated` means that an earlier response already contained this refresh token.
    Tokens {
        repeated: bool,
    },
    Error(&'static str),
}

#[derive(Debug)]
struct Grant {
    client: usize,
    all: bool,
    key: Option<usize>,
    of_person: bool,
    ends: u64,
    over: bool,
    parent: Option<usize>,
    /// The numbers of the refresh tokens, in the order in which they were issued.
    chain: Vec<usize>,
    rotated_at: u64,
}

#[derive(Debug)]
struct Access {
    grant: usize,
    ends: u64,
    key: Option<usize>,
    pub(super) acts: bool,
}

#[derive(Debug)]
struct Code {
    client: usize,
    all: bool,
    ends: u64,
    grant: Option<usize>,
}

#[derive(Debug)]
struct Device {
    ends: u64,
    decision: Option<bool>,
    grant: Option<usize>,
    interval: u64,
    asked_at: Option<u64>,
}

pub(super) struct Model {
    pub(super) now: u64,
    grants: Vec<Grant>,
    access: Vec<Access>,
    codes: Vec<Code>,
    devices: Vec<Device>,
    refresh_tokens: usize,
    /// For each client, whether the user allowed the whole scope, and until when this is remembered.
    consents: [Option<(bool, u64)>; CLIENTS],
    client_off: [bool; CLIENTS],
    person_off: bool,
}

/// The expected response when an access token is used at its resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Passes,
    Unknown,
    TooLittle,
}

impl Model {
    pub(super) fn new(now: u64) -> Self {
        Self {
            now,
            grants: Vec::new(),
            access: Vec::new(),
            codes: Vec::new(),
            devices: Vec::new(),
            refresh_tokens: 0,
            consents: [None; CLIENTS],
            client_off: [false; CLIENTS],
            person_off: false,
        }
    }

    fn is_off(&self, client: usize) -> bool {
        self.client_off.get(client).copied().unwrap_or(false)
    }

    fn lives(&self, grant: usize) -> bool {
        let grant = &self.grants[grant];
        let is_switched_off = self.is_off(grant.client) || grant.of_person && self.person_off;
        !grant.over
            && grant.ends > self.now
            && !is_switched_off
            && grant.parent.is_none_or(|parent| self.lives(parent))
    }

    /// Whether the store still has the grant, even if its client or user is disabled.
    fn is_there(&self, grant: usize) -> bool {
        !self.grants[grant].over && self.grants[grant].ends > self.now
    }

    pub(super) fn answer(&self, access: usize) -> Answer {
        let access = &self.access[access];
        match access.ends > self.now && self.lives(access.grant) {
            false => Answer::Unknown,
            true if self.grants[access.grant].all => Answer::Passes,
            true => Answer::TooLittle,
        }
    }

    /// The key that a call with this token must prove possession of.
    pub(super) fn key_of(&self, access: usize) -> Option<usize> {
        self.access[access].key
    }

    pub(super) fn acts(&self, access: usize) -> bool {
        self.access[access].acts
    }

    pub(super) fn client_of_access(&self, access: usize) -> usize {
        self.grants[self.access[access].grant].client
    }

    pub(super) fn client_of_refresh(&self, token: usize) -> usize {
        self.grants[self.grant_of(token)].client
    }

    fn grant_of(&self, token: usize) -> usize {
        self.grants.iter().position(|grant| grant.chain.contains(&token)).unwrap()
    }

    fn issue(&mut self, grant: usize, key: Option<usize>, ends: u64) {
        let acts = self.grants[grant].parent.is_some();
        let ends = ends.min(self.grants[grant].ends);
        self.access.push(Access { grant, ends, key, acts });
    }

    fn new_grant(&mut self, client: usize, all: bool, key: Option<usize>) -> usize {
        let ends = self.now + REFRESH;
        let chain = vec![self.refresh_tokens];
        self.refresh_tokens += 1;
        let (over, parent, of_person, rotated_at) = (false, None, true, 0);
        self.grants.push(Grant { client, all, key, of_person, ends, over, parent, chain, rotated_at });
        self.grants.len() - 1
    }

    /// Returns whether the user must consent before the client gets a code, or `None` if the client gets no code.
    pub(super) fn authorize(&mut self, client: usize, all: bool) -> Option<bool> {
        if self.client_off[client] || self.person_off {
            return None;
        }
        let known = self.consents[client].filter(|(_, until)| *until > self.now);
        let covered = known.is_some_and(|(known, _)| known || !all);
        let allowed = all || known.is_some_and(|(known, _)| known);
        self.consents[client] = Some((allowed, self.now + REFRESH));
        self.codes.push(Code { client, all, ends: self.now + CODE, grant: None });
        Some(!covered)
    }

    /// The client of the code, unless the code is so old that the service might have forgotten it.
    pub(super) fn client_of_code(&self, code: usize) -> Option<usize> {
        Some(&self.codes[code]).filter(|code| code.ends + 80_000 > self.now).map(|code| code.client)
    }

    pub(super) fn redeem(&mut self, code: usize, client: usize, verifier: bool, key: Option<usize>) -> Said {
        if self.is_off(client) {
            return Said::Error("invalid_client");
        }
        let Code { client: owner, all, ends, .. } = self.codes[code];
        if owner != client || !verifier {
            return Said::Error("invalid_grant");
        }
        if let Some(grant) = self.codes[code].grant {
            // Two parties have the code and its verifier. The service detects this as long as it remembers the
            // used code.
            if self.now < ends + REMEMBERED {
                self.grants[grant].over = true;
                if client < CLIENTS {
                    self.consents[client] = None;
                }
            }
            return Said::Error("invalid_grant");
        }
        if ends <= self.now || self.person_off {
            return Said::Error("invalid_grant");
        }
        let grant = self.new_grant(client, all, key);
        self.codes[code].grant = Some(grant);
        self.issue(grant, key, self.now + ACCESS);
        Said::Tokens { repeated: false }
    }

    pub(super) fn refresh(&mut self, token: usize, client: usize, key: Option<usize>) -> Said {
        if self.is_off(client) {
            return Said::Error("invalid_client");
        }
        let id = self.grant_of(token);
        let grant = &self.grants[id];
        let bound_otherwise = grant.key.is_some() && grant.key != key;
        if !self.is_there(id) || grant.client != client || bound_otherwise || self.person_off {
            return Said::Error("invalid_grant");
        }
        let age = grant.chain.iter().rev().position(|known| *known == token).unwrap();
        let repeated = match age {
            0 => false,
            1 if self.now - grant.rotated_at <= GRACE => true,
            _ => {
                self.grants[id].over = true;
                if client < CLIENTS {
                    self.consents[client] = None;
                }
                return Said::Error("invalid_grant");
            }
        };
        if !repeated {
            let fresh = self.refresh_tokens;
            self.refresh_tokens += 1;
            let (now, grant) = (self.now, &mut self.grants[id]);
            grant.chain.push(fresh);
            grant.rotated_at = now;
            grant.ends = now + REFRESH;
        }
        self.issue(id, key, self.now + ACCESS);
        Said::Tokens { repeated }
    }

    fn revoke(&mut self, grant: usize, client: usize) -> bool {
        if self.is_off(client) {
            return false;
        }
        if self.is_there(grant) && self.grants[grant].client == client {
            self.grants[grant].over = true;
            if client < CLIENTS {
                self.consents[client] = None;
            }
        }
        true
    }

    /// Revokes the grant of a refresh token. Returns whether the client authentication succeeds.
    pub(super) fn revoke_refresh(&mut self, token: usize, client: usize) -> bool {
        self.revoke(self.grant_of(token), client)
    }

    pub(super) fn revoke_access(&mut self, access: usize, client: usize) -> bool {
        self.revoke(self.access[access].grant, client)
    }

    pub(super) fn start_device(&mut self) {
        let ends = self.now + DEVICE;
        self.devices.push(Device { ends, decision: None, grant: None, interval: 5, asked_at: None });
    }

    /// Whether the service must still remember the device code.
    pub(super) fn remembers_device(&self, device: usize) -> bool {
        self.devices[device].ends + 80_000 > self.now
    }

    /// Sets the user's decision about the device. Returns whether a decision was still pending.
    pub(super) fn decide(&mut self, device: usize, yes: bool) -> bool {
        let (now, device) = (self.now, &mut self.devices[device]);
        let open = device.decision.is_none() && device.ends > now;
        if open {
            device.decision = Some(yes);
        }
        open
    }

    pub(super) fn poll(&mut self, device: usize, client: usize) -> Said {
        if self.is_off(client) {
            return Said::Error("invalid_client");
        }
        // No other client is allowed to use this grant type.
        if client != DEVICE_CLIENT {
            return Said::Error("unauthorized_client");
        }
        let (now, id, person_off) = (self.now, device, self.person_off);
        let device = &mut self.devices[device];
        if let Some(grant) = device.grant {
            if now < device.ends + REMEMBERED {
                self.grants[grant].over = true;
            }
            return Said::Error("invalid_grant");
        }
        if device.ends <= now {
            return Said::Error("expired_token or invalid_grant");
        }
        let too_fast = device.asked_at.is_some_and(|last| now - last < device.interval - 1);
        device.asked_at = Some(now);
        if too_fast {
            device.interval += 5;
            return Said::Error("slow_down");
        }
        match device.decision {
            None => return Said::Error("authorization_pending"),
            Some(false) => return Said::Error("access_denied"),
            Some(true) if person_off => return Said::Error("invalid_grant"),
            Some(true) => {}
        }
        let grant = self.new_grant(client, true, None);
        self.devices[id].grant = Some(grant);
        self.issue(grant, None, now + ACCESS);
        Said::Tokens { repeated: false }
    }

    fn without_refresh(&mut self, client: usize, all: bool, ends: u64, parent: Option<usize>) {
        let of_person = parent.is_some();
        let (key, over, chain, rotated_at) = (None, false, Vec::new(), 0);
        self.grants.push(Grant { client, all, key, of_person, ends, over, parent, chain, rotated_at });
        self.issue(self.grants.len() - 1, None, ends);
    }

    pub(super) fn machine(&mut self) {
        self.without_refresh(MACHINE, true, self.now + ACCESS, None);
    }

    pub(super) fn exchange(&mut self, access: usize) -> Said {
        let Access { grant, ends, acts, .. } = self.access[access];
        if ends <= self.now || !self.lives(grant) || acts {
            return Said::Error("invalid_grant");
        }
        let all = self.grants[grant].all;
        self.without_refresh(SERVICE, all, ends.min(self.now + ACCESS), Some(grant));
        // A machine's token does not represent a user, and neither does a token received in exchange for it.
        let of_person = self.grants[grant].of_person;
        self.grants.last_mut().unwrap().of_person = of_person;
        Said::Tokens { repeated: false }
    }

    pub(super) fn switch_client(&mut self, client: usize, off: bool) {
        self.client_off[client] = off;
    }

    pub(super) fn switch_person(&mut self, off: bool) {
        self.person_off = off;
    }
}
