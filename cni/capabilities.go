package cni

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// The capabilities whose arguments are used (CNI conventions, "Dynamic Plugin specific fields", and containerd's own).
const (
	capPorts       = "portMappings"
	capBandwidth   = "bandwidth"
	capDNS         = "dns"
	capAnnotations = "io.kubernetes.cri.pod-annotations"
)

// capabilities are those that a configuration may ask for; each function reads the argument that a runtime then passes.
var capabilities = map[string]func(*NetConf, json.RawMessage) error{
	capPorts:       func(c *NetConf, raw json.RawMessage) (err error) { c.HostPorts, err = parsePorts(raw); return err },
	capBandwidth:   func(c *NetConf, raw json.RawMessage) (err error) { c.Limits, err = parseBandwidth(raw); return err },
	capDNS:         func(c *NetConf, raw json.RawMessage) (err error) { c.Scope, err = parseScope(raw); return err },
	capAnnotations: func(c *NetConf, raw json.RawMessage) error { return decode(raw, &c.Annotations) },
	"cgroupPath":   func(*NetConf, json.RawMessage) error { return nil }, // not needed
}

// readCapabilities reads the arguments of the capabilities that the configuration asks for.
func (c *NetConf) readCapabilities() error {
	for _, name := range slices.Sorted(maps.Keys(c.capabilities)) {
		if c.capabilities[name] && capabilities[name] == nil {
			return &configError{"capabilities", fmt.Sprintf("asks for %q, which is not supported", name), "remove it"}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.runtime)) {
		if !c.capabilities[name] {
			return &configError{"runtimeConfig", fmt.Sprintf("has %q, which \"capabilities\" does not ask for", name), "remove it"}
		}
		if err := capabilities[name](c, c.runtime[name]); err != nil {
			return inField("runtimeConfig."+name, err)
		}
	}
	return nil
}

// inField names the field of an error that does not.
func inField(field string, err error) error {
	if already, ok := err.(*configError); ok { //nolint:errorlint // a wrapped one says more than its field
		return already
	}
	return &configError{field, fmt.Sprintf("cannot be read: %v", err), ""}
}

// decodeStrict refuses unknown fields, each of which would be a wish that is ignored.
func decodeStrict(raw json.RawMessage, out any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	return d.Decode(out)
}

// protocols are IANA's numbers.
var protocols = map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132}

// parsePorts reads the argument of portMappings.
func parsePorts(raw json.RawMessage) ([]HostPort, error) {
	var entries []portMapping
	if err := decodeStrict(raw, &entries); err != nil {
		return nil, err
	}
	var ports []HostPort
	seen := map[HostPort]bool{}
	for i, e := range entries {
		field := func(name string) string { return fmt.Sprintf("runtimeConfig.%s[%d].%s", capPorts, i, name) }
		p, err := e.parse(field)
		if err != nil {
			return nil, err
		}
		asked := p
		asked.ContainerPort = 0
		if seen[asked] {
			return nil, &configError{field("hostPort"), fmt.Sprintf("is %d/%s again", e.HostPort, e.Protocol), "a port of the node leads to one port of a pod"}
		}
		seen[asked] = true
		ports = append(ports, p)
	}
	return ports, nil
}

// A portMapping is an entry of portMappings as runtimes write it.
type portMapping struct {
	HostPort, ContainerPort int
	Protocol, HostIP        string
}

// parse names fields by the function. All addresses of the node, however they are written, are the zero HostIP, as the
// scheduler takes them.
func (m portMapping) parse(field func(string) string) (p HostPort, err error) {
	if p.HostPort, err = port(field("hostPort"), m.HostPort); err != nil {
		return HostPort{}, err
	}
	if p.ContainerPort, err = port(field("containerPort"), m.ContainerPort); err != nil {
		return HostPort{}, err
	}
	var ok bool
	if p.Protocol, ok = protocols[strings.ToLower(m.Protocol)]; !ok {
		return HostPort{}, &configError{field("protocol"), fmt.Sprintf("is %q", m.Protocol), "it must be tcp, udp or sctp"}
	}
	if m.HostIP == "" {
		return p, nil
	}
	addr, err := netip.ParseAddr(m.HostIP)
	if err != nil || addr.Zone() != "" {
		return HostPort{}, &configError{field("hostIP"), fmt.Sprintf("is %q", m.HostIP), "it must be an address of the node, or be left out for all of them"}
	}
	if !addr.IsUnspecified() {
		p.HostIP = addr.Unmap()
	}
	return p, nil
}

func port(field string, value int) (uint16, error) {
	if value < 1 || value > 65535 {
		return 0, &configError{field, fmt.Sprintf("is %d", value), "it must be 1 to 65535"}
	}
	return uint16(value), nil
}

// maxScope bounds what is kept of a container's resolver configuration. glibc takes as many search domains as a line holds.
const maxScope = 64

// parseScope reads the argument of dns. Domains and options are the runtime's business; only what could not be in a file
// of lines and words is refused.
func parseScope(raw json.RawMessage) (DNSScope, error) {
	var scope DNSScope
	if err := decodeStrict(raw, &scope); err != nil {
		return DNSScope{}, err
	}
	for _, list := range []struct {
		name  string
		words []string
	}{{"servers", scope.Servers}, {"searches", scope.Search}, {"options", scope.Options}} {
		field := "runtimeConfig." + capDNS + "." + list.name
		if len(list.words) > maxScope {
			return DNSScope{}, &configError{field, fmt.Sprintf("has %d entries", len(list.words)), fmt.Sprintf("it may have %d", maxScope)}
		}
		for _, word := range list.words {
			if word == "" || strings.ContainsFunc(word, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
				return DNSScope{}, &configError{field, fmt.Sprintf("has %q", word), "an entry is one word"}
			}
		}
	}
	for _, server := range scope.Servers {
		if _, err := netip.ParseAddr(server); err != nil {
			return DNSScope{}, &configError{"runtimeConfig." + capDNS + ".servers", fmt.Sprintf("has %q", server), "it must be an address"}
		}
	}
	return scope, nil
}

// dns is what the result says of the resolver: the runtime's wish, and where it has none the configuration's.
func (c *NetConf) dns() types.DNS {
	out := c.DNS
	if len(c.Scope.Servers) > 0 {
		out.Nameservers = c.Scope.Servers
	}
	if len(c.Scope.Search) > 0 {
		out.Search = c.Scope.Search
	}
	if len(c.Scope.Options) > 0 {
		out.Options = c.Scope.Options
	}
	return out
}
