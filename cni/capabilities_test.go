package cni

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func withArgument(capability, argument string) []byte {
	return fmt.Appendf(nil, `{"name":"net","dns":{"nameservers":["10.0.0.1"],"search":["lan"]},"capabilities":{%q:true},"runtimeConfig":{%q:%s}}`,
		capability, capability, argument)
}

func TestCapabilities(t *testing.T) {
	addr := netip.MustParseAddr
	for argument, want := range map[string][]HostPort{
		`[]`: nil,
		`[{"hostPort":80,"containerPort":8080,"protocol":"TCP","hostIP":"0.0.0.0"}]`: {{HostPort: 80, ContainerPort: 8080, Protocol: 6}},
		`[{"hostPort":53,"containerPort":53,"protocol":"udp","hostIP":"::"},{"hostPort":53,"containerPort":53,"protocol":"sctp"}]`: {
			{HostPort: 53, ContainerPort: 53, Protocol: 17}, {HostPort: 53, ContainerPort: 53, Protocol: 132},
		},
		`[{"hostPort":1,"containerPort":65535,"protocol":"tcp","hostIP":"::ffff:10.0.0.1"},{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"fd00::1"}]`: {
			{addr("10.0.0.1"), 1, 65535, 6}, {addr("fd00::1"), 1, 2, 6},
		},
	} {
		c, err := ParseNetConf(withArgument(capPorts, argument))
		if err != nil {
			t.Errorf("%s: %v", argument, err)
			continue
		}
		if diff := cmp.Diff(want, c.HostPorts, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Error(diff)
		}
	}
	c, err := ParseNetConf(withArgument(capDNS, `{"searches":["a.svc","svc"],"options":["ndots:5"]}`))
	if err != nil {
		t.Fatal(err)
	}
	want := types.DNS{Nameservers: []string{"10.0.0.1"}, Search: []string{"a.svc", "svc"}, Options: []string{"ndots:5"}}
	if diff := cmp.Diff(want, c.dns()); diff != "" {
		t.Error(diff)
	}
}

func TestCapabilityErrors(t *testing.T) {
	for _, tt := range []struct{ capability, argument, want string }{
		{capPorts, `{}`, `field "runtimeConfig.portMappings": cannot be read`},
		{capPorts, `[{"hostPort":0,"containerPort":1,"protocol":"tcp"}]`, `field "runtimeConfig.portMappings[0].hostPort": is 0; it must be 1 to 65535`},
		{capPorts, `[{"hostPort":1,"containerPort":65536,"protocol":"tcp"}]`, `portMappings[0].containerPort": is 65536`},
		{capPorts, `[{"hostPort":1,"containerPort":1}]`, `portMappings[0].protocol": is ""; it must be tcp, udp or sctp`},
		{capPorts, `[{"hostPort":1,"containerPort":1,"protocol":"tcp","hostIP":"eth0"}]`, `portMappings[0].hostIP": is "eth0"; it must be an address`},
		{capPorts, `[{"hostPort":1,"containerPort":1,"protocol":"tcp","hostIp6":"::1"}]`, `unknown field "hostIp6"`},
		{capPorts, `[{"hostPort":1,"containerPort":1,"protocol":"tcp"},{"hostPort":1,"containerPort":2,"protocol":"TCP","hostIP":"0.0.0.0"}]`, `portMappings[1].hostPort": is 1/TCP again`},
		{capBandwidth, `{"ingressRate":-1}`, `field "runtimeConfig.bandwidth`},
		{capDNS, `{"servers":["localhost"]}`, `field "runtimeConfig.dns.servers": has "localhost"; it must be an address`},
		{capDNS, `{"searches":["a b"]}`, `field "runtimeConfig.dns.searches": has "a b"; an entry is one word`},
		{capDNS, `{"options":["` + strings.Repeat(`x","`, maxScope) + `x"]}`, `field "runtimeConfig.dns.options": has 65 entries`},
		{capDNS, `{"ndots":5}`, `unknown field "ndots"`},
		{capAnnotations, `{"a":1}`, `field "runtimeConfig.io.kubernetes.cri.pod-annotations": cannot be read`},
	} {
		if _, err := ParseNetConf(withArgument(tt.capability, tt.argument)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %s: %v, want %q in it", tt.capability, tt.argument, err, tt.want)
		}
	}
}

func FuzzCapabilities(f *testing.F) {
	f.Add(capPorts, `[{"hostPort":80,"containerPort":8080,"protocol":"tcp","hostIP":"::1"}]`)
	f.Add(capDNS, `{"servers":["::1"],"searches":["a"],"options":["ndots:5"]}`)
	f.Add(capBandwidth, `{"ingressRate":1000,"egressRate":1e3}`)
	f.Fuzz(func(t *testing.T, name, argument string) {
		read := capabilities[name]
		if read == nil || !json.Valid([]byte(argument)) {
			return
		}
		var c NetConf
		if read(&c, json.RawMessage(argument)) != nil {
			return
		}
		for _, p := range c.HostPorts {
			if p.HostPort == 0 || p.ContainerPort == 0 || p.HostIP.IsUnspecified() || p.HostIP.Is4In6() || p.Protocol == 0 {
				t.Fatalf("passed: %+v", p)
			}
		}
		for _, word := range append(append(c.Scope.Servers, c.Scope.Search...), c.Scope.Options...) {
			if strings.ContainsAny(word, " \n\t\x00") || word == "" {
				t.Fatalf("passed: %q", word)
			}
		}
	})
}
