package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/cluster"
	"sigs.k8s.io/yaml"
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

	Cloud cloudConfig `json:"cloud"`
	Pool  poolConfig  `json:"pool"`
	DNS   dnsConfig   `json:"dns"`
}

type cloudConfig struct {
	// Endpoint is the ECS API, "host:port" or a URL; empty means the vendor's for the region.
	Endpoint string `json:"endpoint"`
	// Metadata is the base URL of the instance metadata service.
	Metadata string `json:"metadata"`
	// AccessKeyID and AccessKeySecret are used when set, and the instance's RAM role otherwise.
	AccessKeyID     string `json:"accessKeyID"`
	AccessKeySecret string `json:"accessKeySecret"`
	// VSwitches are where pod addresses come from; empty means the instance's own vSwitch.
	VSwitches []string `json:"vSwitches"`
	// SecurityGroups are those of pod ENIs; empty means the instance's.
	SecurityGroups []string `json:"securityGroups"`
}

// poolConfig holds the watermarks, in addresses.
type poolConfig struct {
	MinIdle  int      `json:"minIdle"`
	MaxIdle  int      `json:"maxIdle"`
	MinTotal int      `json:"minTotal"`
	Cooldown duration `json:"cooldown"`
}

type dnsConfig struct {
	// Address is the node's DNS listener, on port 53.
	Address netip.Addr `json:"address"`
	// Service is the cluster's DNS, "namespace/name": what pods have as their nameserver.
	Service string `json:"service"`
	// Upstreams get what is not of the cluster, over TCP; empty means the node's own resolvers.
	Upstreams []string `json:"upstreams"`
	// Corefile replaces the generated configuration; a path.
	Corefile string `json:"corefile"`
}

// A duration reads the form of time.ParseDuration.
type duration time.Duration

func (d *duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration such as 30s: %w", text, err)
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
		Cloud:      cloudConfig{Metadata: "http://100.100.100.200"},
		Pool:       poolConfig{MinIdle: 2, MaxIdle: 10, Cooldown: duration(30 * time.Second)},
		DNS:        dnsConfig{Address: netip.MustParseAddr("169.254.20.10"), Service: "kube-system/kube-dns"},
	}
}

// readConfig lays the file at path over the defaults. A key nobody knows is an error: it is a typo, and the setting it
// was meant to be would be missing.
func readConfig(path string) (config, error) {
	c := defaultConfig()
	if path == "" {
		return c, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(text, &c); err != nil {
		return c, fmt.Errorf("read configuration %s: %w", path, err)
	}
	return c, nil
}

// check names every field that cannot be right, its value and what to do about it.
func (c config) check() error {
	_, serviceErr := parseName(c.DNS.Service)
	rules := []struct {
		ok    bool
		field string
		value any
		fix   string
	}{
		{c.NodeName != "", "nodeName", c.NodeName, "set it to the node's name in the cluster"},
		{c.ClusterDomain != "", "clusterDomain", c.ClusterDomain, "use the cluster's domain, such as cluster.local"},
		{c.Kubeconfig == "" || c.Manifests == "", "manifests", c.Manifests, "objects come from kubeconfig or from manifests: set one of them"},
		{c.Listen.Addr().IsLoopback(), "listen", c.Listen, "use a loopback address"},
		{filepath.IsAbs(c.Socket), "socket", c.Socket, "use an absolute path"},
		{filepath.IsAbs(c.StateDir), "stateDir", c.StateDir, "use an absolute path"},
		{filepath.IsAbs(c.PinDir), "pinDir", c.PinDir, "use an absolute path on a bpffs"},
		{c.CgroupRoot != "", "cgroupRoot", c.CgroupRoot, "no cgroup2 is mounted: mount one, or name its directory"},
		{c.Pool.MinIdle >= 0, "pool.minIdle", c.Pool.MinIdle, "use a number of at least 0"},
		{c.Pool.MaxIdle >= c.Pool.MinIdle, "pool.maxIdle", c.Pool.MaxIdle, fmt.Sprintf("use a number of at least pool.minIdle, which is %d", c.Pool.MinIdle)},
		{c.Pool.MinTotal >= 0, "pool.minTotal", c.Pool.MinTotal, "use a number of at least 0"},
		{c.Pool.Cooldown >= 0, "pool.cooldown", time.Duration(c.Pool.Cooldown), "use a duration of at least 0s"},
		{c.DNS.Address.Is4(), "dns.address", c.DNS.Address, "use an IPv4 address, such as the link-local 169.254.20.10"},
		{serviceErr == nil, "dns.service", c.DNS.Service, `write it as "namespace/name"`},
		{!slices.ContainsFunc(c.DNS.Upstreams, notAddress), "dns.upstreams", c.DNS.Upstreams, "use addresses, with or without a port"},
		{(c.Cloud.AccessKeyID == "") == (c.Cloud.AccessKeySecret == ""), "cloud.accessKeyID", c.Cloud.AccessKeyID, "set it together with cloud.accessKeySecret, or neither for the instance's RAM role"},
	}
	var errs []error
	for _, r := range rules {
		if !r.ok {
			errs = append(errs, fmt.Errorf("%s: %q: %s", r.field, fmt.Sprint(r.value), r.fix))
		}
	}
	return errors.Join(errs...)
}

func notAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	_, errPort := netip.ParseAddrPort(s)
	return err != nil && errPort != nil
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
