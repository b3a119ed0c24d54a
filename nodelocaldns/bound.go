package nodelocaldns

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/coredns/caddy/caddyfile"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/parse"
	"github.com/coredns/coredns/plugin/pkg/transport"
)

// checkBound finds addresses that a Corefile does not serve. A restart would close their listeners before it could be undone.
// What is wrong with the Corefile otherwise is told by whoever executes it.
func checkBound(corefile []byte, required []netip.AddrPort) error {
	blocks, err := caddyfile.Parse("Corefile", bytes.NewReader(corefile), dnsserver.Directives)
	if err != nil {
		return fmt.Errorf("read the Corefile: %w", err)
	}
	for _, at := range required {
		if !slices.ContainsFunc(blocks, func(b caddyfile.ServerBlock) bool { return hasPort(b, at.Port()) && binds(b, at.Addr()) }) {
			return notBound(at)
		}
	}
	return nil
}

func notBound(at netip.AddrPort) error {
	return fmt.Errorf("the Corefile does not serve %s: add the address to its line bind", at)
}

// hasPort says whether the block is of plain DNS on a port.
func hasPort(b caddyfile.ServerBlock, port uint16) bool {
	return slices.ContainsFunc(b.Keys, func(key string) bool {
		kind, rest := parse.Transport(key)
		_, text, err := plugin.SplitHostPort(rest)
		n, _ := strconv.ParseUint(cmp.Or(text, dnsserver.Port), 10, 16)
		return err == nil && kind == transport.DNS && uint16(n) == port
	})
}

// binds says whether the block's lines bind have the address, or a link that has it. Without any it has all.
func binds(b caddyfile.ServerBlock, addr netip.Addr) bool {
	tokens, ok := b.Tokens["bind"]
	if !ok {
		return true
	}
	return slices.ContainsFunc(tokens, func(t caddyfile.Token) bool {
		if bound, err := netip.ParseAddr(t.Text); err == nil {
			return bound == addr || bound.IsUnspecified()
		}
		link, err := net.InterfaceByName(t.Text)
		if err != nil {
			return false
		}
		addrs, _ := link.Addrs()
		return slices.ContainsFunc(addrs, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && p.Addr() == addr
		})
	})
}
