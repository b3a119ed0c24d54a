package service

import (
	"errors"
	"sync"

	"github.com/nearpath/nearpath/bpf"
)

// fakeMaps is a working Maps without a kernel.
type fakeMaps struct {
	mu        sync.Mutex // a Reconciler's Reclaim comes at any time
	frontends map[bpf.Frontend]entry
	blocks    map[uint32]bpf.Block
	records   uint32
	room      int // for frontends
	fail      int // how many writes from now on the first failure comes; 0: never
}

func newFakeMaps() *fakeMaps {
	return &fakeMaps{frontends: map[bpf.Frontend]entry{}, blocks: map[uint32]bpf.Block{}, records: 64, room: 64}
}

var errInjected = errors.New("injected")

// write is for a caller that holds mu.
func (m *fakeMaps) write() error {
	if m.fail > 0 {
		if m.fail--; m.fail == 0 {
			return errInjected
		}
	}
	return nil
}

func (m *fakeMaps) Publish(r uint32, b bpf.Block) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.write(); err != nil {
		return err
	}
	m.blocks[r] = b
	return nil
}

func (m *fakeMaps) PutFrontend(f bpf.Frontend, kind bpf.FrontendKind, r uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.write(); err != nil {
		return err
	}
	if _, ok := m.frontends[f]; !ok && len(m.frontends) >= m.room {
		return bpf.ErrFull
	}
	m.frontends[f] = entry{r, kind}
	return nil
}

func (m *fakeMaps) DeleteFrontend(f bpf.Frontend) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.write(); err != nil {
		return err
	}
	delete(m.frontends, f)
	return nil
}

func (m *fakeMaps) Retire(r uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blocks, r)
}

func (m *fakeMaps) Reclaim() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.write()
}

func (m *fakeMaps) MaxRecords() uint32 { return m.records }

func (m *fakeMaps) Block(r uint32) (b bpf.Block, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok = m.blocks[r]
	return b, ok
}

func (m *fakeMaps) Entries() (out []bpf.Entry, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for f, e := range m.frontends {
		out = append(out, bpf.Entry{Frontend: f, Kind: e.kind, Record: e.record})
	}
	return out, nil
}

func (m *fakeMaps) Records() (out []uint32) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for r := range m.blocks {
		out = append(out, r)
	}
	return out
}

// serves renders what clients see: every frontend with the block behind it. Addresses of Services have none.
func (m *fakeMaps) serves() map[string]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]string{}
	for f, e := range m.frontends {
		if e.kind == bpf.ServiceAddress {
			continue
		}
		b, ok := m.blocks[e.record]
		if !ok {
			out[f.String()] = "nothing"
			continue
		}
		out[f.String()] = shown(e.kind, b)
	}
	return out
}
