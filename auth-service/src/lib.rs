//! auth-service: the authorization server and the check behind every edge proxy.
