// Package cloudlab puts the simulated Alibaba Cloud into a lab: a VPC of real links in a network namespace, its API and
// metadata service where instances find them, and machines whose network interfaces are ENIs.
package cloudlab

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/netlab"
)

// A Cloud is a simulated cloud in a lab. Its methods may be called from one goroutine at a time.
type Cloud struct {
	lab          *netlab.Lab
	sim          *sim.Cloud
	fabric       *sim.VPC
	guard        *bpf.SourceGuard
	server       *http.Server
	instanceType string
	vpc          *netlab.NetNS
	subnet6      netip.Prefix // of the machines; the zero Prefix: they have no IPv6
	second       sim.VSwitch  // of second ENIs
}

// Options say what a cloud is like.
type Options struct {
	Sim sim.Config // without its Fabric, which Open makes; sim.DefaultConfig is a complete one
	// InstanceType is that of the machines; empty: ecs.sim.medium.
	InstanceType string
	// IPv6 gives machines an address of that family, too; their vSwitch has to have it (sim.DualStackConfig).
	IPv6 bool
	// Wrap stands between the machines and what the cloud serves, the API at / and the metadata below /latest/; nil: nothing.
	Wrap func(http.Handler) http.Handler
}

// Start opens the default cloud.
func Start(lab *netlab.Lab, log *slog.Logger) (*Cloud, error) {
	config := sim.DefaultConfig()
	config.Logger = log
	return Open(lab, Options{Sim: config})
}

// Open makes the VPC, in a namespace of the lab called vpc, and serves the API and the metadata service in it. Close
// must be called before the lab is closed.
func Open(lab *netlab.Lab, o Options) (*Cloud, error) {
	vpc, err := lab.NetNS("vpc")
	if err != nil {
		return nil, err
	}
	c := &Cloud{lab: lab, vpc: vpc, instanceType: cmp.Or(o.InstanceType, "ecs.sim.medium")}
	if i := slices.IndexFunc(o.Sim.VSwitches, func(v sim.VSwitch) bool { return v.ID == sim.DefaultPodVSwitch }); i >= 0 {
		c.second = o.Sim.VSwitches[i]
	}
	if o.IPv6 {
		i := slices.IndexFunc(o.Sim.VSwitches, func(v sim.VSwitch) bool { return v.ID == sim.DefaultNodeVSwitch })
		if i < 0 || !o.Sim.VSwitches[i].IPv6CIDR.IsValid() {
			return nil, fmt.Errorf("open cloud: vSwitch %s has no IPv6", sim.DefaultNodeVSwitch)
		}
		c.subnet6 = o.Sim.VSwitches[i].IPv6CIDR
	}
	if c.guard, err = bpf.NewSourceGuard(); err != nil {
		return nil, err
	}
	if c.fabric, err = sim.NewVPC(sim.VPCConfig{NetNS: vpc.Path(), Guard: c.guard}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	o.Sim.Fabric = c.fabric
	if c.sim, err = sim.New(o.Sim); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	handler := c.sim.Handler()
	if o.Wrap != nil {
		handler = o.Wrap(handler)
	}
	var listener net.Listener
	err = vpc.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(sim.MetadataAddr, 80).String())
		return err
	})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.server = &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = c.server.Serve(listener) }() // Close ends it
	return c, nil
}

// Close ends the service and unplugs every ENI.
func (c *Cloud) Close() error {
	var errs []error
	if c.server != nil {
		errs = append(errs, c.server.Close())
	}
	if c.sim != nil {
		errs = append(errs, c.sim.Close())
	}
	if c.fabric != nil {
		errs = append(errs, c.fabric.Close())
	}
	return errors.Join(append(errs, c.guard.Close())...)
}

// Sim is the simulated cloud itself: what there is in it, and faults.
func (c *Cloud) Sim() *sim.Cloud { return c.sim }

// AgentConfig is the configuration of an agent on one of the machines, but for where its objects come from. Its keys
// are those of the instance's role.
func (c *Cloud) AgentConfig(nodeName string) string {
	return fmt.Sprintf(`nodeName: %s
cloud:
  endpoint: http://%s
  insecureHTTP: true
  vSwitches: [%s]
`, nodeName, sim.MetadataAddr, sim.DefaultPodVSwitch)
}
