package cni

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"
	"golang.org/x/sys/unix"

	"github.com/nearpath/nearpath/internal/agentapi"
	"github.com/nearpath/nearpath/internal/atomicfile"
)

// RecordsDir is the directory of records beside the agent's socket; an empty socket means agentapi.DefaultSocket. Like
// what the records are about, namespaces and links, it does not outlive a reboot.
func RecordsDir(socket string) string {
	return filepath.Join(filepath.Dir(cmp.Or(socket, agentapi.DefaultSocket)), "pods")
}

// A record is what ADD decided for one attachment and what it made, so that all who come later know it: DEL, CHECK, GC,
// the Collector, and whoever changes limits. It is written before anything is made. An attachment without one is wired as
// Veth, with no limits, no host ports and Services by sockets, and all of it follows from its key.
type record struct {
	Key Key    `json:"key"`
	Pod PodRef `json:"pod"`
	// NetNS is the path of the namespace, and Inode its number there: a path may be given to another namespace later.
	NetNS string `json:"netns"`
	Inode uint64 `json:"inode"`

	Datapath  Datapath     `json:"datapath"`
	Addrs     []netip.Addr `json:"addrs"`
	Slot      int          `json:"slot"`
	MAC       string       `json:"mac,omitempty"` // of the ENI
	MTU       int          `json:"mtu"`
	Limits    Limits       `json:"limits"`
	ByPackets bool         `json:"byPackets,omitempty"` // as in Wish
	HostPorts []HostPort   `json:"hostPorts,omitempty"`
	// Scope is what the runtime says of the container's resolver; the zero value if it says nothing.
	Scope DNSScope `json:"scope"`
	// Parent and Companion are the names of the ENI and of the node's link beside the pod's, with IPVlan.
	Parent    string `json:"parent,omitempty"`
	Companion string `json:"companion,omitempty"`
	// Node and Networks are what the pod reaches through the node directly, with IPVlan and Exclusive.
	Node     []netip.Addr   `json:"node,omitempty"`
	Networks []netip.Prefix `json:"networks,omitempty"`

	// What follows is known once the links are made; see PodEntry.
	Cookie uint64 `json:"cookie,omitempty"`
	Link   int    `json:"link,omitempty"`
	ENI    int    `json:"eni,omitempty"`
	Side   int    `json:"side,omitempty"`
	Slave  int    `json:"slave,omitempty"`
}

// A DNSScope is how a container's resolver completes names, as the runtime tells by the capability "dns".
type DNSScope struct {
	Servers []string `json:"servers,omitempty"`
	Search  []string `json:"searches,omitempty"`
	Options []string `json:"options,omitempty"`
}

// entry is what the datapath knows of the pod.
func (r record) entry() PodEntry {
	return PodEntry{
		Addrs: r.Addrs, NetNSCookie: r.Cookie, Slot: r.Slot, Link: r.Link, NetNS: r.NetNS,
		Datapath: r.Datapath, ByPackets: r.ByPackets, ENI: r.ENI, Side: r.Side, Slave: r.Slave, HostPorts: r.HostPorts,
		ContainerID: r.Key.ContainerID, Pod: r.Pod, Scope: r.Scope,
	}
}

// shaped is the pod as a Shaper sees it.
func (r record) shaped() Shaped {
	s := Shaped{
		Key: r.Key, Datapath: r.Datapath, NetNS: r.NetNS, PodLink: r.Key.IfName, Addrs: r.Addrs, Slot: r.Slot, MTU: r.MTU, Limits: r.Limits,
	}
	if r.Datapath != IPVlan {
		s.HostLink = r.Key.HostLink()
	}
	if r.Datapath == Exclusive {
		s.SideLink = sideLink
	}
	return s
}

// records is the directory; the zero value keeps nothing. Records of different keys may be read and written at the same
// time, those of one key need its lock.
type records string

func (d records) path(k Key) string {
	sum := k.sum()
	return filepath.Join(string(d), hex.EncodeToString(sum[:])+recordSuffix)
}

const recordSuffix = ".json"

// maxRecordBytes bounds a file; host ports take most of one.
const maxRecordBytes = 1 << 20

func (d records) write(r record) error {
	if d == "" {
		return nil
	}
	body, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record of %s: %w", r.Key, err)
	}
	return atomicfile.Write(d.path(r.Key), body, 0o600)
}

// remove takes a record away, readable or not.
func (d records) remove(k Key) error {
	if d == "" {
		return nil
	}
	if err := os.Remove(d.path(k)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// read returns false without an error if there is none.
func (d records) read(k Key) (record, bool, error) {
	if d == "" {
		return record{}, false, nil
	}
	r, err := readRecord(d.path(k))
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, false, nil
	}
	return r, err == nil, err
}

// has says whether there may be a record, readable or not.
func (d records) has(k Key) bool {
	if d == "" {
		return false
	}
	_, err := os.Lstat(d.path(k))
	return !errors.Is(err, fs.ErrNotExist)
}

// list reads all records. The error joins those of files that cannot be read; the others are returned all the same.
func (d records) list() (all []record, err error) {
	if d == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list records: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // being written
		}
		r, err := readRecord(filepath.Join(string(d), e.Name()))
		switch {
		case err == nil:
			all = append(all, r)
		case !errors.Is(err, fs.ErrNotExist): // deleted since
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}

func readRecord(path string) (record, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return record{}, err
	}
	defer file.Close()
	body, err := io.ReadAll(io.LimitReader(file, maxRecordBytes+1))
	if err != nil {
		return record{}, err
	}
	r, err := parseRecord(body, filepath.Base(path))
	if err != nil {
		return record{}, fmt.Errorf("read record %s: %w", path, err)
	}
	return r, nil
}

// parseRecord takes nothing on trust: what it returns is used to enter namespaces and to delete links.
func parseRecord(body []byte, name string) (record, error) {
	if len(body) > maxRecordBytes {
		return record{}, fmt.Errorf("it has more than %d bytes", maxRecordBytes)
	}
	// A newer agent may have written fields that this one does not know.
	d := json.NewDecoder(bytes.NewReader(body))
	var r record
	if err := d.Decode(&r); err != nil {
		return record{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return record{}, errors.New("data after the JSON object")
	}
	if err := r.check(); err != nil {
		return record{}, err
	}
	if filepath.Base(records("/").path(r.Key)) != name {
		return record{}, errors.New("its name does not follow from its content")
	}
	return r, nil
}

func (r record) check() error {
	if err := utils.ValidateNetworkName(r.Key.Network); err != nil {
		return err
	}
	if err := utils.ValidateContainerID(r.Key.ContainerID); err != nil {
		return err
	}
	if err := utils.ValidateInterfaceName(r.Key.IfName); err != nil {
		return err
	}
	if !filepath.IsAbs(r.NetNS) {
		return fmt.Errorf("netns is %q, which is not an absolute path", r.NetNS)
	}
	if !slices.Contains([]Datapath{Veth, IPVlan, Exclusive}, r.Datapath) {
		return fmt.Errorf("datapath is %q", r.Datapath)
	}
	if slices.ContainsFunc(r.Addrs, func(a netip.Addr) bool { return !a.IsValid() }) || len(r.Addrs) == 0 || len(r.Addrs) > 2 {
		return fmt.Errorf("addresses are %v", r.Addrs)
	}
	if r.Datapath == Veth {
		return nil
	}
	if _, err := net.ParseMAC(r.MAC); err != nil {
		return err
	}
	if r.Datapath == IPVlan && (utils.ValidateInterfaceName(r.Parent) != nil || utils.ValidateInterfaceName(r.Companion) != nil) {
		return fmt.Errorf("parent is %q and companion %q", r.Parent, r.Companion)
	}
	return nil
}
