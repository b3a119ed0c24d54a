package dns

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"github.com/nearpath/nearpath/bench/dnslab"
	"github.com/nearpath/nearpath/bench/measure"
)

// A contender answers DNS on the node.
type contender struct {
	name   string
	role   measure.Role
	server netip.AddrPort // as the pod asks it
	pid    int            // of its program
}

// The peers, the floor of answers that are at hand, and those of answers that an upstream gives.
const (
	nameUnbound = "unbound"
	nameCoreDNS = "CoreDNS cache"
	nameEcho    = "UDP echo in C"
	nameRelay   = "UDP relay in C"
	nameRelayGo = "UDP relay in Go"
)

// Where those are that are beside the node's own listener.
const (
	echoPort = 5300 + iota
	unboundPort
	cachePort
	relayPort
	relayGoPort
)

// cacheFile is the Corefile of NodeLocal DNSCache for names outside the cluster (kubernetes, cluster/addons/dns/nodelocaldns).
var cacheFile = fmt.Sprintf(`.:%d {
	errors
	cache 30
	reload
	loop
	bind %s
	forward . %s
	prometheus 127.0.0.1:9253
}
`, cachePort, dnslab.NodeDNS, dnslab.UpstreamAddr)

// unboundFile is Debian's default but for what a resolver of a node cannot need: it forwards, and validates nothing, as the
// others do not.
var unboundFile = fmt.Sprintf(`server:
  interface: %s@%d
  access-control: 0.0.0.0/0 allow
  do-daemonize: no
  do-not-query-localhost: no
  username: ""
  chroot: ""
  directory: ""
  pidfile: ""
  use-syslog: no
  verbosity: 0
  num-threads: 1
  module-config: "iterator"
  do-ip6: no
forward-zone:
  name: "."
  forward-addr: %s@%d
`, dnslab.NodeDNS, unboundPort, dnslab.UpstreamAddr.Addr(), dnslab.UpstreamAddr.Port())

// startPeers starts all of them. They are there when they answer, which is for the caller to see.
func (b *bed) startPeers(ctx context.Context) error {
	files := map[string]string{"Corefile": cacheFile, "unbound.conf": unboundFile}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(b.Node.Dir(), name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, p := range []struct {
		name    string
		role    measure.Role
		port    uint16
		program string
		args    []string
	}{
		{nameUnbound, measure.Peer, unboundPort, "unbound", []string{"-d", "-c", filepath.Join(b.Node.Dir(), "unbound.conf")}},
		{nameCoreDNS, measure.Peer, cachePort, filepath.Join(b.peers, "cachepeer"), []string{"-conf", filepath.Join(b.Node.Dir(), "Corefile")}},
		{nameEcho, measure.Floor, echoPort, filepath.Join(b.peers, "udp-echo"), []string{dnslab.NodeDNS.String(), strconv.Itoa(echoPort)}},
		{nameRelay, measure.Floor, relayPort, filepath.Join(b.peers, "udp-relay"), []string{
			dnslab.NodeDNS.String(), strconv.Itoa(relayPort), dnslab.UpstreamAddr.Addr().String(), strconv.Itoa(int(dnslab.UpstreamAddr.Port())),
		}},
		{nameRelayGo, measure.Floor, relayGoPort, filepath.Join(b.peers, "relaypeer"), []string{
			netip.AddrPortFrom(dnslab.NodeDNS, relayGoPort).String(), dnslab.UpstreamAddr.String(),
		}},
	} {
		c := contender{name: p.name, role: p.role, server: netip.AddrPortFrom(dnslab.NodeDNS, p.port)}
		server, err := b.Serve(ctx, filepath.Base(p.program), func() error {
			return b.Client.Ask(ctx, dnslab.VerbLoop, dnslab.Loop{Server: c.server, Names: []string{hot}, Times: 1, Patience: patience}, nil)
		}, p.program, p.args...)
		if err != nil {
			return err
		}
		if c.pid, err = server.PID(); err != nil {
			return err
		}
		b.contenders = append(b.contenders, &c)
	}
	return nil
}
