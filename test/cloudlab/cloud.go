// Package cloudlab puts the simulated Alibaba Cloud into a lab: a VPC of real links in a network namespace, its API and
// metadata service where instances find them, and machines whose network interfaces are ENIs.
package cloudlab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/nearpath/nearpath/bpf"
	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/netlab"
)

// A Cloud is a simulated cloud in a lab. Its methods may be called from one goroutine at a time.
type Cloud struct {
	lab    *netlab.Lab
	sim    *sim.Cloud
	guard  *bpf.SourceGuard
	server *http.Server
}

// A Machine is an instance and the network namespace that is its network stack.
type Machine struct {
	ID    string
	Addr  netip.Addr
	NetNS *netlab.NetNS
}

// Start makes the VPC, in a namespace of the lab called vpc, and serves the API and the metadata service in it. Close
// must be called before the lab is closed.
func Start(lab *netlab.Lab, log *slog.Logger) (*Cloud, error) {
	vpc, err := lab.NetNS("vpc")
	if err != nil {
		return nil, err
	}
	c := &Cloud{lab: lab}
	if c.guard, err = bpf.NewSourceGuard(); err != nil {
		return nil, err
	}
	fabric, err := sim.NewVPC(sim.VPCConfig{NetNS: vpc.Path(), Guard: c.guard})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	config := sim.DefaultConfig()
	config.Fabric, config.Logger = fabric, log
	if c.sim, err = sim.New(config); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	var listener net.Listener
	err = vpc.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(sim.MetadataAddr, 80).String())
		return err
	})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.server = &http.Server{Handler: c.sim.Handler(), ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = c.server.Serve(listener) }() // Close ends it
	return c, nil
}

// Close ends the service. The links go with the lab.
func (c *Cloud) Close() error {
	var errs []error
	if c.server != nil {
		errs = append(errs, c.server.Close())
	}
	if c.sim != nil {
		errs = append(errs, c.sim.Close())
	}
	return errors.Join(append(errs, c.guard.Close())...)
}

// Machine runs an instance whose network stack is a new namespace of the lab with the given name.
func (c *Cloud) Machine(ctx context.Context, name string) (Machine, error) {
	ns, err := c.lab.NetNS(name)
	if err != nil {
		return Machine{}, err
	}
	instance, eni, err := c.sim.RunInstance(ctx, sim.InstanceSpec{
		Type: "ecs.sim.medium", VSwitchID: sim.DefaultNodeVSwitch, NetNS: ns.Path(),
	})
	if err != nil {
		return Machine{}, fmt.Errorf("run an instance for %s: %w", name, err)
	}
	return Machine{ID: instance.ID, Addr: eni.PrimaryIP, NetNS: ns}, nil
}

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
