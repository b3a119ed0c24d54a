// Package upstream asks other DNS servers: the resolvers of the VPC, the endpoints of the cluster's DNS Service, servers
// of single zones.
//
// An [Upstream] is the servers of one zone. It has four jobs, each in its own file:
//   - flight.go: identical questions that wait at the same time are one; the number of questions in flight is bounded.
//   - race.go: a question is asked of one endpoint, then of others when that one is late or fails, until one has answered
//     or the time is over.
//   - endpoint.go: an endpoint is known by its connections, its response times and its failures; [Pool] shares endpoints
//     between Upstreams and keeps their connections while configurations come and go.
//   - tcp.go, udp.go: one question over a connection that others share, matched by id and question, or over a socket of
//     its own with a port nobody can guess.
//
// service.go follows the endpoints of a Service, loop.go finds out whether an endpoint leads back here.
//
// Answers are kept by whoever asks: nothing is cached here, failures included (RFC 9520).
package upstream
