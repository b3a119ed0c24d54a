package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"

	"github.com/cilium/ebpf"
)

// ErrNoMaps is returned when there are no maps to read: no agent has served Services since the machine's start.
var ErrNoMaps = errors.New("there are no maps of Services")

// Read reads the maps pinned below pinDir, with or without an agent. It loads no program, changes nothing, and needs root.
// A writer may be at work meanwhile: then each record is as it was at some moment while Read ran.
func Read(pinDir string) (_ *Tables, err error) {
	r := &reader{dir: filepath.Join(pinDir, layoutVersion), epochs: map[uint32]uint32{}}
	defer func() { err = errors.Join(err, r.close()) }()
	t := &Tables{Frontends: map[Frontend]Target{}, Blocks: map[uint32]Block{}}
	for _, read := range []func(*Tables) error{r.frontends, r.blocks, r.node, r.pods, r.affinity} {
		if err := read(t); err != nil {
			return nil, readError(pinDir, err)
		}
	}
	return t, nil
}

func readError(pinDir string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read the maps in %s: %w: no agent has served Services here", pinDir, ErrNoMaps)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("read the maps in %s: only root may: %w", pinDir, err)
	default:
		return fmt.Errorf("read the maps in %s: %w", pinDir, err)
	}
}

// A reader has maps open for reading.
type reader struct {
	dir    string
	maps   []*ebpf.Map
	epochs map[uint32]uint32 // of records
}

func (r *reader) open(name string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(r.dir, name), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		return nil, err
	}
	r.maps = append(r.maps, m)
	return m, nil
}

func (r *reader) close() error {
	var errs []error
	for _, m := range r.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

func (r *reader) frontends(t *Tables) error {
	m, err := r.open(sockMapFrontends)
	if err != nil {
		return err
	}
	s := Services{frontends: m}
	entries, err := s.Entries()
	for _, e := range entries {
		t.Frontends[e.Frontend] = Target{e.Kind, e.Record}
	}
	return err
}

// blocks reads what records publish.
func (r *reader) blocks(t *Tables) error {
	records, err := r.open(sockMapRecords)
	if err != nil {
		return err
	}
	blocks, err := r.open(sockMapBlocks)
	if err != nil {
		return err
	}
	m, err := r.open(sockMapSourceRanges)
	if err != nil {
		return err
	}
	ranges := sourceRanges{kernel: m}
	if err := ranges.adopt(); err != nil {
		return err
	}
	words, err := readWords(records)
	if err != nil {
		return err
	}
	for id := range words {
		if words[id] == 0 {
			continue
		}
		cells, ok, err := readBlock(uint32(id), records, blocks)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		b := decodeBlock(cells)
		b.SourceRanges = ranges.of(uint32(id))
		t.Blocks[uint32(id)] = b
		_, _, more, _ := header(cells)
		r.epochs[uint32(id)] = more.Epoch
	}
	return nil
}

// readWords reads an array of words.
func readWords(m *ebpf.Map) ([]uint64, error) {
	var cursor ebpf.MapBatchCursor
	keys, words := make([]uint32, m.MaxEntries()), make([]uint64, m.MaxEntries())
	n, err := m.BatchLookup(&cursor, keys, words, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, err
	}
	return words[:n], nil
}

// readBlock reads the cells of what a record publishes. They may be written over meanwhile, once the record points
// elsewhere: then it reads anew.
func readBlock(id uint32, records, blocks *ebpf.Map) (cells []uint64, ok bool, err error) {
	for {
		var before, after uint64
		if err := records.Lookup(id, &before); err != nil {
			return nil, false, err
		}
		published := loadRecord(&before)
		if published.Block == 0 {
			return nil, false, nil
		}
		cells, ok, err := readCells(id, published.Block, blocks)
		if err != nil {
			return nil, false, err
		}
		if err := records.Lookup(id, &after); err != nil {
			return nil, false, err
		}
		if before == after {
			return cells, ok, nil
		}
	}
}

// readCells reads the block of a record from where it is said to be; ok is false when that is none.
func readCells(id, at uint32, blocks *ebpf.Map) (cells []uint64, ok bool, err error) {
	for n := uint32(blockHeaderCells); uint32(len(cells)) < n; {
		var c uint64
		err := blocks.Lookup(at+uint32(len(cells)), &c)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		if cells = append(cells, c); len(cells) == blockHeaderCells {
			n = blockCells(cells)
		}
	}
	return cells, unpack[sockBlockHead](cells[0]).Record == id, nil
}

func (r *reader) node(t *Tables) error {
	addresses, err := r.open(sockMapNodeAddresses)
	if err != nil {
		return err
	}
	networks, err := r.open(sockMapHostNetworks)
	if err != nil {
		return err
	}
	err = eachEntry(addresses, func(k sockAddress, flags uint8) {
		t.NodeAddresses = append(t.NodeAddresses, NodeAddress{address(k.Addr), flags&uint8(packetNodeAddressFlagsNODE_ADDRESS_PORTS) != 0})
	})
	return errors.Join(err, eachEntry(networks, func(k packetNetwork, way uint8) {
		addr, bits := address(k.Addr), int(k.PrefixBits)
		if addr.Is4() {
			bits -= 96
		}
		t.Networks = append(t.Networks, HostNetwork{netip.PrefixFrom(addr, bits), Way(way)})
	}))
}

func (r *reader) pods(t *Tables) error {
	byCookie, err := r.open(sockMapPods)
	if err != nil {
		return err
	}
	byAddress, err := r.open(sockMapPodAddresses)
	if err != nil {
		return err
	}
	p := Pods{byCookie: byCookie, byAddress: byAddress}
	var addrs []netip.Addr
	ofPods := map[uint64]bool{}
	err = eachEntry(byAddress, func(k sockAddress, v sockPodAddress) {
		addrs = append(addrs, address(k.Addr))
		ofPods[v.NetnsCookie] = true
	})
	if err != nil {
		return err
	}
	err = eachEntry(byCookie, func(k sockPodKey, v sockPod) {
		if !ofPods[k.NetnsCookie] { // the node's entry, which no address of a pod leads to
			t.Host = append(t.Host, podAddresses(v)...)
		}
	})
	if err != nil {
		return err
	}
	for _, a := range addrs {
		pod, ok, err := p.Lookup(a)
		if err != nil {
			return err
		}
		if ok {
			t.Pods = append(t.Pods, pod)
		}
	}
	return nil
}

// podAddresses is the inverse of podValue.
func podAddresses(v sockPod) (out []netip.Addr) {
	if v.Addr4 != 0 {
		out = append(out, address([4]uint32{2: words(netip.IPv4Unspecified())[2], 3: v.Addr4}))
	}
	if v.Addr6 != ([4]uint32{}) {
		out = append(out, address(v.Addr6))
	}
	return out
}

// affinity leaves out what counts no more because affinity has been off since.
func (r *reader) affinity(t *Tables) (err error) {
	m, err := r.open(sockMapAffinity)
	if err != nil {
		return err
	}
	if t.Now, err = Clock(); err != nil {
		return err
	}
	a := Affinity{entries: m}
	return a.each(func(k sockAffinityKey, v sockAffinity) error {
		if epoch, ok := r.epochs[k.Record]; ok && epoch == v.Epoch {
			t.Affinity = append(t.Affinity, affinityEntry(k, v))
		}
		return nil
	})
}

func eachEntry[K, V any](m *ebpf.Map, visit func(K, V)) error {
	var (
		key   K
		value V
	)
	it := m.Iterate()
	for it.Next(&key, &value) {
		visit(key, value)
	}
	return it.Err()
}
