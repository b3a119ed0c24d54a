package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/cni"
	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
	"github.com/nearpath/nearpath/internal/strict"
)

// A config is the agent's configuration file. Every field has a default but nodeName's, which is the host's name, and
// the cloud's, which come from the metadata service.
type config struct {
	// NodeName is the node's name in the cluster.
	NodeName string `json:"nodeName"`
	// ClusterDomain is the domain of Services, such as cluster.local.
	ClusterDomain string `json:"clusterDomain"`
	// Kubeconfig and Manifests say where objects come from; neither means the API server of the pod's cluster.
	Kubeconfig string `json:"kubeconfig"`
	Manifests  string `json:"manifests"`

	// Listen is the loopback address of /healthz, /readyz and /metrics.
	Listen     netip.AddrPort `json:"listen"`
	Socket     string         `json:"socket"`
	StateDir   string         `json:"stateDir"`
	PinDir     string         `json:"pinDir"`
	CgroupRoot string         `json:"cgroupRoot"`
	LogLevel   slog.Level     `json:"logLevel"`

	// ENIConfig is a file with Terway's keys (eni_conf of the ConfigMap eni-config), laid under the others.
	ENIConfig string `json:"eniConfig"`

	Cloud    cloudConfig    `json:"cloud"`
	Pool     poolConfig     `json:"pool"`
	Network  networkConfig  `json:"network"`
	Egress   egressConfig   `json:"egress"`
	Services servicesConfig `json:"services"`
	DNS      dnsConfig      `json:"dns"`
	Policy   policyConfig   `json:"policy"`
	CNI      cniConfig      `json:"cni"`

	// notes are settings that were read and have no effect here.
	notes []string
}

type cloudConfig struct {
	cloudAccess
	// Region is that of the instance; it is only compared with what the instance says. Empty: not compared.
	Region string `json:"region"`
	// ClusterID marks the cluster's ENIs, so that those of nodes that are gone can be told from other clusters'; empty means
	// that each node only knows its own.
	ClusterID string `json:"clusterID"`
	// Endpoint and VPCEndpoint are the APIs, as STSEndpoint is; empty means the vendor's for the region, and for the second
	// the first.
	Endpoint    string `json:"endpoint"`
	VPCEndpoint string `json:"vpcEndpoint"`
	// VSwitches are where pod addresses come from; empty means the instance's own vSwitch. VSwitchPolicy chooses among
	// those of the instance's zone.
	VSwitches     []string `json:"vSwitches"`
	VSwitchPolicy string   `json:"vSwitchPolicy"`
	// SecurityGroups are those of pod ENIs; empty means the instance's.
	SecurityGroups []string `json:"securityGroups"`
	ResourceGroup  string   `json:"resourceGroup"`
	// ENITags are put on new ENIs. Only ENIs with all tags of ENITagFilter are adopted, and those with one of ENITagBlock
	// are left alone.
	ENITags      map[string]string `json:"eniTags"`
	ENITagFilter map[string]string `json:"eniTagFilter"`
	ENITagBlock  map[string]string `json:"eniTagBlock"`
}

// poolConfig holds the watermarks, in addresses, and what else decides about the pool.
type poolConfig struct {
	// Stack is "ipv4" or "dual".
	Stack    string `json:"stack"`
	MinIdle  int    `json:"minIdle"`
	MaxIdle  int    `json:"maxIdle"`
	MinTotal int    `json:"minTotal"`
	// WarmUp is how many addresses the pool gets at first, whatever is in use.
	WarmUp   int      `json:"warmUp"`
	Cooldown duration `json:"cooldown"`
	// ReuseCooling lets a pool without any other address lease a cooling one.
	ReuseCooling bool        `json:"reuseCooling"`
	IdleReclaim  idleReclaim `json:"idleReclaim"`
	// MinENIs and MaxENIs bound the ENIs beside the primary one; MaxENIs 0 means what the instance type allows.
	MinENIs int `json:"minENIs"`
	MaxENIs int `json:"maxENIs"`
	// ENIRatio and ENIShift scale what the instance type allows: quantity x ratio + shift, the primary one counted; the type's own
	// limit is not exceeded.
	ENIRatio float64 `json:"eniRatio"`
	ENIShift int     `json:"eniShift"`
	// ENIPolicy chooses the ENI of a pod.
	ENIPolicy string `json:"eniPolicy"`
	// SpreadIRQs spreads the interrupts of ENIs' queues over the CPUs.
	SpreadIRQs bool `json:"spreadIRQs"`
	// Exclusive is about ENIs that are given to one pod whole.
	Exclusive exclusiveConfig `json:"exclusive"`
	// KeepFor is how long the address of a pod whose controller is of a kind in KeepKinds stays reserved for the pod's
	// name after the pod is gone.
	KeepFor   duration `json:"keepFor"`
	KeepKinds []string `json:"keepKinds"`
}

type idleReclaim struct {
	// After is how long an address must have been idle; Batch of them go each Interval, give or take Jitter (a fraction).
	After    duration `json:"after"`
	Interval duration `json:"interval"`
	Batch    int      `json:"batch"`
	Jitter   float64  `json:"jitter"`
}

// egressConfig says how pods reach what is outside the VPC.
type egressConfig struct {
	// Mode is "vpc" (by the VPC's NAT gateway, which is checked), "node-snat" (with the node's address) or "none".
	Mode string `json:"mode"`
	// Exempt are destinations that node-snat leaves alone, beside the VPC's own.
	Exempt []netip.Prefix `json:"exempt"`
}

// A duration is written as time.ParseDuration reads it, such as 30s.
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return errors.New("use a duration such as 30s")
	}
	*d = duration(v)
	return nil
}

func defaultConfig() config {
	host, _ := os.Hostname()
	return config{
		NodeName: host, ClusterDomain: "cluster.local", Listen: netip.MustParseAddrPort("127.0.0.1:9440"),
		Socket: agentapi.DefaultSocket, StateDir: "/var/lib/nearpath", PinDir: "/sys/fs/bpf/nearpath",
		CgroupRoot: cgroup2Root(),
		Cloud:      cloudConfig{cloudAccess: defaultCloudAccess(), VSwitchPolicy: "most-free"},
		Pool: poolConfig{
			Stack: "ipv4", MinIdle: 2, MaxIdle: 10, Cooldown: duration(30 * time.Second), ENIRatio: 1, ENIPolicy: "balance-queues", SpreadIRQs: true,
			IdleReclaim: idleReclaim{After: duration(10 * time.Minute), Interval: duration(time.Minute), Batch: 5, Jitter: 0.1},
			KeepFor:     duration(5 * time.Minute), KeepKinds: []string{"StatefulSet"},
		},
		Network:  networkConfig{Datapath: cni.Veth, Sandboxed: slices.Clone(sandboxedByDefault), MeshContainers: slices.Clone(meshByDefault), HostRoot: "/"},
		Egress:   egressConfig{Mode: "vpc"},
		Services: defaultServices(""),
		DNS:      defaultDNS(),
		Policy:   defaultPolicy(),
		CNI:      cniConfig{ConfName: defaultConfName},
	}
}

// readConfig lays the files at path, and at the eniConfig that it names, over the defaults.
func readConfig(path string) (config, error) {
	c := defaultConfig()
	if path == "" {
		return c, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	first := defaultConfig()
	if err := strict.Unmarshal(text, &first); err != nil {
		return c, fmt.Errorf("read configuration %s: %w", path, err)
	}
	c.Services = defaultServices(first.Services.ProxyName)
	if first.ENIConfig != "" {
		if err := c.layTerway(first.ENIConfig); err != nil {
			return c, fmt.Errorf("read configuration %s: %w", first.ENIConfig, err)
		}
	}
	return c, strict.Unmarshal(text, &c) // the same text again: no error is left
}

func parseName(s string) (cluster.Name, error) {
	ns, name, ok := strings.Cut(s, "/")
	if !ok || ns == "" || name == "" {
		return cluster.Name{}, fmt.Errorf("%q is not of the form namespace/name", s)
	}
	return cluster.Name{Namespace: ns, Name: name}, nil
}

// cgroup2Root finds where the cgroup2 hierarchy is mounted, "" if nowhere.
func cgroup2Root() string {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1]
		}
	}
	return ""
}
