package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
)

// PluginType is the "type" of the configuration and the name of the executable.
const PluginType = "nearpath-cni"

// Keys that the specification reserves for the runtime (CNI specification 1.1.0, section 1 and "GC").
const (
	keyValidAttachments = "cni.dev/valid-attachments"
	keyAttachments      = "cni.dev/attachments" // its older name
)

// A NetConf is the plugin's configuration as the runtime passes it on standard input.
type NetConf struct {
	CNIVersion string
	Name       string
	// MTU of the pods' links; 0 means that of the node's uplink.
	MTU int
	// Datapath is that of pods that ask for none; Veth if left out.
	Datapath Datapath
	DNS      types.DNS
	// What the runtime passes of the pod, for the capabilities that are asked for.
	HostPorts   []HostPort
	Limits      Limits
	Scope       DNSScope
	Annotations map[string]string

	PrevResult json.RawMessage
	// Valid holds the attachments that GC must keep; nil when the key is absent.
	Valid []types.GCAttachment

	capabilities map[string]bool
	runtime      map[string]json.RawMessage
}

// A configError names a field of the configuration, what is wrong with its value, and what to write instead.
type configError struct{ field, problem, fix string }

func (e *configError) Error() string {
	text := fmt.Sprintf("field %q: %s", e.field, e.problem)
	if e.fix != "" {
		text += "; " + e.fix
	}
	return text
}

// fields are the keys a configuration may have; each function reads one value.
var fields = map[string]func(*NetConf, json.RawMessage) error{
	"cniVersion":        func(c *NetConf, raw json.RawMessage) error { return str(&c.CNIVersion, raw) },
	"cniVersions":       func(_ *NetConf, raw json.RawMessage) error { return decode(raw, &[]string{}) },
	"name":              func(c *NetConf, raw json.RawMessage) error { return str(&c.Name, raw) },
	"type":              readType,
	"mtu":               readMTU,
	"datapath":          readDatapath,
	"socket":            readSocket,
	"dns":               func(c *NetConf, raw json.RawMessage) error { return decode(raw, &c.DNS) },
	"prevResult":        func(c *NetConf, raw json.RawMessage) error { return decode(raw, &c.PrevResult) },
	"args":              func(*NetConf, json.RawMessage) error { return nil }, // optional hints of the runtime
	"capabilities":      func(c *NetConf, raw json.RawMessage) error { return decode(raw, &c.capabilities) },
	"runtimeConfig":     func(c *NetConf, raw json.RawMessage) error { return decode(raw, &c.runtime) },
	keyValidAttachments: func(c *NetConf, raw json.RawMessage) error { return decode(raw, &c.Valid) },
	keyAttachments:      func(c *NetConf, raw json.RawMessage) error { return decode(raw, &c.Valid) },
}

// unsupported explains keys that other plugins know.
var unsupported = map[string]string{
	"ipam":               "remove it: addresses come from the agent's pool",
	"bridge":             "remove it: pods are not on a bridge",
	"ipMasq":             "remove it: pod addresses are routable in the VPC",
	"eniip_virtual_type": "use \"datapath\"",
}

// ParseNetConf reads a configuration strictly: an unknown key is an error, since it would be a wish that is ignored.
func ParseNetConf(data []byte) (*NetConf, error) {
	raw, err := object(data)
	if err != nil {
		return nil, err
	}
	c := &NetConf{Datapath: Veth}
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		read, ok := fields[key]
		if !ok {
			return nil, &configError{key, "is not known", unsupported[key]}
		}
		if err := read(c, raw[key]); err != nil {
			return nil, inField(key, err)
		}
	}
	return c, c.validate()
}

// parseForTeardown reads only what DEL and GC need. They must work with a configuration that ADD would refuse, for
// instance after a change of versions.
func parseForTeardown(data []byte) (*NetConf, error) {
	raw, err := object(data)
	if err != nil {
		return nil, err
	}
	c := &NetConf{}
	for _, key := range []string{"name", keyAttachments, keyValidAttachments} {
		if value, ok := raw[key]; ok {
			if err := fields[key](c, value); err != nil {
				return nil, &configError{key, fmt.Sprintf("cannot be read: %v", err), ""}
			}
		}
	}
	return c, c.validateName()
}

// object reads one JSON object with its keys exactly as written; encoding/json matches struct fields in any case.
func object(data []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	var raw map[string]json.RawMessage
	if err := d.Decode(&raw); err != nil {
		return nil, fmt.Errorf("read network configuration: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("read network configuration: data after the JSON object")
	}
	if raw == nil {
		return nil, errors.New("read network configuration: it is null and must be a JSON object")
	}
	return raw, nil
}

func decode(raw json.RawMessage, out any) error { return json.Unmarshal(raw, out) }

func str(out *string, raw json.RawMessage) error { return decode(raw, out) }

func readType(_ *NetConf, raw json.RawMessage) error {
	var kind string
	if err := str(&kind, raw); err != nil {
		return err
	}
	if kind != PluginType {
		return &configError{"type", fmt.Sprintf("is %q", kind), fmt.Sprintf("it must be %q", PluginType)}
	}
	return nil
}

// readMTU bounds the value by what IPv4 needs (RFC 791, section 3.1) and what a veth takes.
func readMTU(c *NetConf, raw json.RawMessage) error {
	if err := decode(raw, &c.MTU); err != nil {
		return &configError{"mtu", fmt.Sprintf("is %s", raw), "write a number, or leave it out for the uplink's"}
	}
	if c.MTU != 0 && (c.MTU < 576 || c.MTU > 65535) {
		return &configError{"mtu", fmt.Sprintf("is %d", c.MTU), "it must be 0 (the uplink's) or 576 to 65535"}
	}
	return nil
}

// readSocket checks what only the executable uses.
func readSocket(_ *NetConf, raw json.RawMessage) error {
	var path string
	if err := str(&path, raw); err != nil {
		return err
	}
	if !filepath.IsAbs(path) {
		return &configError{"socket", fmt.Sprintf("is %q", path), "it must be the absolute path of the agent's socket, or be left out"}
	}
	return nil
}

// datapaths are those that a configuration or a pod may ask for.
var datapaths = []Datapath{Veth, IPVlan, Exclusive}

func readDatapath(c *NetConf, raw json.RawMessage) error {
	if err := decode(raw, &c.Datapath); err != nil {
		return err
	}
	if !slices.Contains(datapaths, c.Datapath) {
		return &configError{"datapath", fmt.Sprintf("is %q", c.Datapath), `it must be "veth", "ipvlan" or "exclusive"`}
	}
	return nil
}

func (c *NetConf) validate() error {
	if err := c.validateName(); err != nil {
		return err
	}
	return c.readCapabilities()
}

func (c *NetConf) validateName() error {
	if c.Name == "" {
		return &configError{"name", "is missing", "every network has a name"}
	}
	if err := utils.ValidateNetworkName(c.Name); err != nil {
		return &configError{"name", fmt.Sprintf("is %q", c.Name), "it must begin with a letter or digit and go on with letters, digits, _ . -"}
	}
	return nil
}

// parseArgs reads CNI_ARGS: pairs K=V separated by semicolons. The Kubernetes keys name the pod; others are refused
// unless IgnoreUnknown is set (CNI conventions, "CNI_ARGS").
func parseArgs(args string) (PodRef, error) {
	var pod PodRef
	targets := map[string]*string{
		"K8S_POD_NAMESPACE": &pod.Namespace, "K8S_POD_NAME": &pod.Name, "K8S_POD_UID": &pod.UID,
		"K8S_POD_INFRA_CONTAINER_ID": &pod.SandboxID,
	}
	var unknown []string
	ignore := false
	for pair := range strings.SplitSeq(args, ";") {
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok || key == "" {
			return PodRef{}, fmt.Errorf("CNI_ARGS: %q is not of the form KEY=VALUE", pair)
		}
		target, known := targets[key]
		switch {
		case known:
			if err := checkName(value); err != nil {
				return PodRef{}, fmt.Errorf("CNI_ARGS: %s: %w", key, err)
			}
			*target = value
		case key == "IgnoreUnknown":
			ignore = value == "1" || strings.EqualFold(value, "true")
		default:
			unknown = append(unknown, key)
		}
	}
	if len(unknown) > 0 && !ignore {
		return PodRef{}, fmt.Errorf("CNI_ARGS: unknown keys %v; set IgnoreUnknown=1 to have them ignored", unknown)
	}
	return pod, nil
}

// checkName takes what Kubernetes names, namespaces, UIDs and sandbox IDs are made of, not each one's exact grammar.
func checkName(value string) error {
	if len(value) > 253 {
		return fmt.Errorf("%d characters are more than the 253 that a name may have", len(value))
	}
	for _, r := range value {
		alphanumeric := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		if !alphanumeric && r != '-' && r != '.' && r != '_' {
			return fmt.Errorf("%q has a character that no name has: %q", value, r)
		}
	}
	return nil
}
