package main

import (
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nearpath/nearpath/internal/strict"
	"github.com/nearpath/nearpath/nodelocaldns"
)

type dnsConfig struct {
	// Address is the node's DNS listener, on port 53.
	Address netip.Addr `json:"address"`
	// Address6 is the same for IPv6; invalid where the node has none.
	Address6 netip.Addr `json:"address6"`
	// Service is the cluster's DNS, "namespace/name": what pods have as their nameserver.
	Service string `json:"service"`
	// Upstreams get what is not of the cluster; empty means the node's own resolvers.
	Upstreams []string `json:"upstreams"`
	// StubDomains have upstreams of their own, by longest suffix.
	StubDomains map[string][]string `json:"stubDomains"`
	// CacheSize is how many answers are kept, and again how many negative ones; 0 means the default.
	CacheSize int `json:"cacheSize"`
	// Kernel has the kernel answer what it can.
	Kernel bool `json:"kernel"`
	// Autopath answers the first question of a pod's search with what the whole search would find.
	Autopath bool `json:"autopath"`
	// Directives are lines for the generated Corefile's block, such as hosts and rewrite.
	Directives string `json:"directives"`
	// Corefile replaces the generated configuration; a path.
	Corefile string `json:"corefile"`
}

// addresses are where the node's DNS listens.
func (c dnsConfig) addresses() []netip.Addr {
	return slices.DeleteFunc([]netip.Addr{c.Address, c.Address6}, func(a netip.Addr) bool { return !a.IsValid() })
}

func (c dnsConfig) check() []strict.Rule {
	_, serviceErr := parseName(c.Service)
	rules := []strict.Rule{
		{OK: c.Address.Is4(), Path: "dns.address", Value: c.Address, Fix: "use an IPv4 address, such as the link-local 169.254.20.10"},
		{OK: !c.Address6.IsValid() || c.Address6.Is6() && !c.Address6.Is4In6() && c.Address6.IsGlobalUnicast(), Path: "dns.address6", Value: c.Address6, Fix: "use an IPv6 address of a network of your own, such as " + defaultListener6 + ", or leave it empty"},
		{OK: serviceErr == nil, Path: "dns.service", Value: c.Service, Fix: `write it as "namespace/name"`},
		atLeast("dns.cacheSize", c.CacheSize, 0),
		{OK: c.Corefile == "" || filepath.IsAbs(c.Corefile), Path: "dns.corefile", Value: c.Corefile, Fix: "use an absolute path"},
	}
	for _, key := range []struct {
		path string
		used bool
	}{
		{"dns.upstreams", len(c.Upstreams) > 0}, {"dns.stubDomains", len(c.StubDomains) > 0}, {"dns.cacheSize", c.CacheSize != 0},
		{"dns.directives", c.Directives != ""},
	} {
		rules = append(rules, strict.Rule{
			OK: c.Corefile == "" || !key.used, Path: key.path, Value: "set",
			Fix: "remove it, or dns.corefile, which replaces what it would be part of",
		})
	}
	return append(rules,
		c.checkCorefile("dns.upstreams", "use addresses, with or without a port", nodelocaldns.Config{Upstreams: c.Upstreams}),
		c.checkCorefile("dns.stubDomains", "use domains, each with the addresses of its resolvers", nodelocaldns.Config{Stubs: c.stubs()}),
	)
}

// checkCorefile is the check of whoever writes the Corefile.
func (c dnsConfig) checkCorefile(path, fix string, conf nodelocaldns.Config) strict.Rule {
	for _, addr := range c.addresses() {
		conf.Listen = append(conf.Listen, netip.AddrPortFrom(addr, 53))
	}
	_, err := conf.Corefile()
	return strict.Rule{OK: err == nil || len(conf.Listen) == 0, Path: path, Value: err, Fix: fix}
}

func defaultDNS() dnsConfig {
	return dnsConfig{
		Address: netip.MustParseAddr("169.254.20.10"), Address6: listener6(disableIPv6), Service: "kube-system/kube-dns",
		Kernel: true, Autopath: true,
	}
}

// defaultListener6 is of a network of its own (RFC 4193).
const defaultListener6 = "fd6e:6561:7270::53"

// disableIPv6 is where the kernel says whether lo may have IPv6 addresses.
const disableIPv6 = "/proc/sys/net/ipv6/conf/lo/disable_ipv6"

// listener6 is the default where the node has IPv6.
func listener6(disabled string) netip.Addr {
	text, err := os.ReadFile(disabled)
	if err != nil || strings.TrimSpace(string(text)) != "0" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(defaultListener6)
}

func (c dnsConfig) stubs() (stubs []nodelocaldns.Stub) {
	for _, domain := range slices.Sorted(maps.Keys(c.StubDomains)) {
		stubs = append(stubs, nodelocaldns.Stub{Domain: domain, Upstreams: c.StubDomains[domain]})
	}
	return stubs
}
