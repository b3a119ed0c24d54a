package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"
)

// HandBack gives Services back to whoever else serves them on the node: from then on what is pinned below pinDir begins no
// connection. Calls of sockets go on untouched, and so do packets of no connection of ours; what is never ours to drop is
// not dropped. Connections that packets are translated for go on, and Remove ends them; of UDP, which has no end, the next
// datagram is somebody else's. No agent may run. When nothing is there it does nothing;
// what is of another layout is only Remove's.
func HandBack(pinDir string) (err error) {
	// Networks of Services first: what is in them and has no frontend any more would be dropped.
	networks, err := openPinned(pinDir, sockMapHostNetworks)
	if err != nil || networks == nil {
		return err
	}
	defer func() { err = errors.Join(err, networks.Close()) }()
	err = deleteAll(networks, func(_ packetNetwork, way uint8) bool { return Way(way) == WayService })
	if err != nil {
		return fmt.Errorf("forget networks of Services: %w", err)
	}
	frontends, err := openPinned(pinDir, sockMapFrontends)
	if err != nil || frontends == nil {
		return err
	}
	defer func() { err = errors.Join(err, frontends.Close()) }()
	for _, which := range frontendPasses {
		if err := deleteAll(frontends, which); err != nil {
			return fmt.Errorf("forget frontends: %w", err)
		}
	}
	return retireAll(pinDir)
}

// frontendPasses say which frontends go in one pass, the first one first: an address refuses what none of its ports has, and
// those are somebody else's from the moment that they go.
var frontendPasses = []func(sockFrontendKey, sockFrontend) bool{
	func(_ sockFrontendKey, f sockFrontend) bool { return FrontendKind(f.Kind) == ServiceAddress },
	func(sockFrontendKey, sockFrontend) bool { return true },
}

// retireAll makes all backends such that serve no more: nobody would say of one of them that it has gone.
func retireAll(pinDir string) (err error) {
	m, err := openPinned(pinDir, sockMapRecords)
	if err != nil || m == nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	records, err := mapWords(m)
	if err != nil {
		return fmt.Errorf("map records: %w", err)
	}
	defer func() { err = errors.Join(err, unmapWords(records)) }()
	for i := range records {
		if r := loadRecord(&records[i]); r.Block != 0 {
			storeRecord(&records[i], sockRecord{Sequence: r.Sequence + 1})
		}
	}
	return nil
}

// ActiveFlows counts the connections of the packet path of which a packet came lately: within that long before now, which
// is of Clock. A packet is noted to a second.
func ActiveFlows(pinDir string, now, within time.Duration) (flows int, err error) {
	m, err := openPinned(pinDir, sockMapFlows)
	if err != nil || m == nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	active := map[packetFlowKey]bool{}
	err = (&Flows{flows: m}).each(func(k packetFlowKey, v packetFlow) error {
		if idle(now, v.LastSeen) > within {
			return nil
		}
		if isReply(v) {
			k = turn(k, v)
		}
		active[k] = true
		return nil
	})
	return len(active), err
}

// openPinned opens a map of the layout of today, nil if it is not there.
func openPinned(pinDir, name string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir, layoutVersion, name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the map %s: %w", name, err)
	}
	return m, nil
}

// deleteAll deletes the elements of a map that are asked for.
func deleteAll[K comparable, V any](m *ebpf.Map, which func(K, V) bool) error {
	var (
		key   K
		value V
		gone  []K
	)
	it := m.Iterate()
	for it.Next(&key, &value) {
		if which(key, value) {
			gone = append(gone, key)
		}
	}
	if err := it.Err(); err != nil {
		return err
	}
	for _, k := range gone {
		if err := ignoreMissing(m.Delete(k)); err != nil {
			return err
		}
	}
	return nil
}
