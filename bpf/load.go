package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

// Config says where the datapath lives. The zero value of a size means the default of bpf/c/consts.h.
type Config struct {
	// PinDir is a directory on a bpffs, such as /sys/fs/bpf/nearpath; it is made if missing.
	PinDir string
	// CgroupRoot is the cgroup2 directory whose processes are served: the root of the node.
	CgroupRoot string
	// HostNetNSCookie identifies the network namespace of the host, see NetNSCookie.
	HostNetNSCookie uint64
	// NodeDNS are the addresses of the node's DNS listener on port 53, one of each family at most.
	NodeDNS []netip.Addr
	// Frontends, Records and BlockCells size the Service maps, Flows that of NATed connections, which have two each, and
	// Affinities that of clients that keep their backend, Answers that of answers to pods' DNS questions. They must not change while pins of an older agent exist.
	Frontends, Records, BlockCells, Flows, Affinities, Answers uint32
	// Tracked sizes the table of connections that policy has judged, one entry each. One pod may have a quarter of it. It counts
	// for a table that is made, and not for one whose pin exists.
	Tracked uint32
	// PolicyOff has programs without NetworkPolicy: what Policy says counts for nothing.
	PolicyOff bool
}

// A Datapath is the loaded programs and maps.
type Datapath struct {
	Services *Services
	Pods     *Pods
	Flows    *Flows
	Affinity *Affinity
	Answers  *Answers
	Policy   *Policy
	Tracked  *Tracked

	objs      sockObjects
	packet    packetPrograms
	bypass    bypassPrograms
	unguarded error // why bypass has none
	policy    policyMaps
	programs  map[Role][]linkProgram
	tcx       bool
	linksMu   sync.Mutex // guards the pins of tcx links
	cfg       Config
	lifeline  []uint64 // mapped; one word, the lower half of which is the futex
}

// Load opens the pinned maps, or makes and pins them, and loads the programs. Nothing is attached yet: what older
// programs serve goes on being served. The caller closes the Datapath; that leaves all pins in place.
func Load(cfg Config) (*Datapath, error) {
	// Before 5.11 map memory counts against RLIMIT_MEMLOCK.
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, fmt.Errorf("lift the locked-memory limit: %w", err)
	}
	spec, err := sockSpec(cfg)
	if err != nil {
		return nil, err
	}
	if err := checkBPFFS(filepath.Dir(cfg.PinDir)); err != nil {
		return nil, err
	}
	pins := filepath.Join(cfg.PinDir, layoutVersion)
	if err := os.MkdirAll(filepath.Join(pins, linkDir), 0o700); err != nil {
		return nil, fmt.Errorf("make pin directory: %w", err)
	}
	d := &Datapath{cfg: cfg}
	opts := ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: pins}}
	if err := loadAndAssign(spec, &d.objs, opts); err != nil {
		return nil, fmt.Errorf("load the datapath with pins in %s: %w", pins, err)
	}
	if err := d.loadPacket(pins); err != nil {
		return nil, errors.Join(err, d.objs.Close())
	}
	if err := errors.Join(d.openPolicy(), d.loadBypass()); err != nil {
		return nil, errors.Join(err, d.closePolicy(), d.objs.Close())
	}
	d.Flows = &Flows{flows: d.objs.Flows, counts: d.objs.PacketCounts, pods: d.objs.PodAddresses, gone: map[[4]uint32]bool{}}
	d.Pods = &Pods{byCookie: d.objs.Pods, byAddress: d.objs.PodAddresses, flows: d.Flows, tracked: d.Tracked, policy: d.Policy, counts: d.objs.DnsCounts}
	if d.Services, err = newServices(d.objs.Frontends, d.objs.Records, d.objs.Blocks, d.objs.SourceRanges); err != nil {
		return nil, errors.Join(err, d.closePolicy(), d.objs.Close())
	}
	d.Affinity = &Affinity{entries: d.objs.Affinity, counts: d.objs.PacketCounts, services: d.Services}
	if d.lifeline, err = mapWords(d.objs.Lifelines); err != nil {
		return nil, errors.Join(fmt.Errorf("map lifelines: %w", err), d.Services.close(), d.closePolicy(), d.objs.Close())
	}
	if d.Answers, err = newAnswers(&d.objs.sockMaps); err != nil {
		return nil, errors.Join(err, unmapWords(d.lifeline), d.Services.close(), d.closePolicy(), d.objs.Close())
	}
	return d, nil
}

// checkBPFFS says what to do when pins could not be made in dir: elsewhere the error would be a bare EPERM.
func checkBPFFS(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("look at the pin directory's file system %s: %w", dir, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("pins need a bpffs, and %s is none: mount -t bpf bpf %s", dir, dir)
	}
	return nil
}

func sockSpec(cfg Config) (*ebpf.CollectionSpec, error) {
	spec, err := loadSock()
	if err != nil {
		return nil, err
	}
	resize(spec, cfg)
	setRetval, err := haveSetRetval()
	if err != nil {
		return nil, err
	}
	return spec, cfg.set(spec, map[string]any{sockVarHostNetnsCookie: cfg.HostNetNSCookie, sockVarHaveSetRetval: setRetval})
}

// set sets variables of programs, and those that all of these have.
func (cfg Config) set(spec *ebpf.CollectionSpec, values map[string]any) error {
	if values == nil {
		values = map[string]any{}
	}
	for _, a := range cfg.NodeDNS {
		name := sockVarNodeDns6
		if a.Is4() {
			name = sockVarNodeDns4
		}
		values[name] = sockAddress{Addr: words(a)}
	}
	for name, value := range values {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}

// resize gives the maps the sizes that cfg asks for.
func resize(spec *ebpf.CollectionSpec, cfg Config) {
	for name, n := range map[string]uint32{
		sockMapFrontends: cfg.Frontends, sockMapRecords: cfg.Records, sockMapBlocks: cfg.BlockCells, sockMapFlows: cfg.Flows,
		sockMapAffinity: cfg.Affinities, sockMapDnsAnswers: cfg.Answers,
	} {
		if n > 0 {
			spec.Maps[name].MaxEntries = n
		}
	}
}

// loadPacket loads the programs of the packet path onto the maps of the socket programs.
func (d *Datapath) loadPacket(pins string) error {
	spec, err := loadPacket()
	if err != nil {
		return err
	}
	resize(spec, d.cfg)
	if err := sizeTracked(spec.Maps[packetMapTracked], d.cfg.Tracked, pins); err != nil {
		return err
	}
	o := &d.objs
	vars := map[string]any{
		packetVarHostNetnsCookie: d.cfg.HostNetNSCookie, packetVarTrackedShare: trackedShare(spec.Maps[packetMapTracked].MaxEntries),
	}
	if d.cfg.PolicyOff {
		vars[packetVarPolicyOff] = uint8(1)
	}
	if err := d.cfg.set(spec, vars); err != nil {
		return err
	}
	opts := ebpf.CollectionOptions{Maps: ebpf.MapOptions{PinPath: pins}, MapReplacements: map[string]*ebpf.Map{
		packetMapFrontends: o.Frontends, packetMapRecords: o.Records, packetMapBlocks: o.Blocks,
		packetMapPods: o.Pods, packetMapLinkAddresses: o.LinkAddresses, packetMapPodAddresses: o.PodAddresses, packetMapNodeAddresses: o.NodeAddresses, packetMapHostNetworks: o.HostNetworks,
		packetMapFlows: o.Flows, packetMapPacketCounts: o.PacketCounts, packetMapFragments: o.Fragments,
		packetMapAffinity: o.Affinity, packetMapSourceRanges: o.SourceRanges, packetMapLifelines: o.Lifelines,
		packetMapDnsAnswers: o.DnsAnswers, packetMapDnsLarge: o.DnsLarge, packetMapDnsZone: o.DnsZone, packetMapDnsCounts: o.DnsCounts,
	}}
	loaded := struct {
		*packetPrograms
		*policyMaps
	}{&d.packet, &d.policy}
	if err := loadAndAssign(spec, &loaded, opts); err != nil {
		return fmt.Errorf("load the packet path: %w", err)
	}
	if d.tcx, err = haveTCX(d.packet.FromPod); err == nil {
		err = d.nameLinkPrograms()
	}
	if err != nil {
		return errors.Join(err, d.closePolicy())
	}
	return nil
}

// sizeTracked gives the table the size that is wanted, or that of its pin: a new size counts once there is none.
func sizeTracked(spec *ebpf.MapSpec, want uint32, pins string) error {
	if want > 0 {
		spec.MaxEntries = want
	}
	have, err := ebpf.LoadPinnedMap(filepath.Join(pins, spec.Name), nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the pin of %s: %w", spec.Name, err)
	}
	spec.MaxEntries = have.MaxEntries()
	return have.Close()
}

// openPolicy opens what the programs' maps say of policy.
func (d *Datapath) openPolicy() (err error) {
	if d.Policy, err = newPolicy(&d.policy, d.objs.PodAddresses); err != nil {
		return err
	}
	d.Tracked, err = newTracked(&d.policy, trackedShare(d.policy.Tracked.MaxEntries()))
	return err
}

// closePolicy closes the programs that are loaded after those of sockets, and the maps that only they have.
func (d *Datapath) closePolicy() error {
	var errs []error
	if d.Policy != nil {
		errs = append(errs, d.Policy.close())
	}
	if d.Tracked != nil {
		errs = append(errs, d.Tracked.close())
	}
	return errors.Join(append(errs, d.packet.Close(), d.bypass.Close(), d.policy.close())...)
}

// trackedShare is how many of so many connections one pod may have.
func trackedShare(entries uint32) uint32 { return max(1, entries/trackedShares) }

// haveSetRetval probes for bpf_set_retval in cgroup socket programs (5.18).
func haveSetRetval() (uint8, error) {
	err := features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("probe bpf_set_retval: %w", err)
	}
	return 1, nil
}

// Close gives up the handles of this process. Pinned maps and attached programs stay.
func (d *Datapath) Close() error {
	return errors.Join(d.Answers.close(), d.Services.close(), unmapWords(d.lifeline), d.closePolicy(), d.objs.Close())
}
