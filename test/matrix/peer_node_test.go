//go:build node

package matrix

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/nearpath/nearpath/test/netlab"
)

// probePort is where every peer answers, by TCP and UDP.
const probePort = 8080

// requestTimeout bounds one request; it is what a broken path costs.
const requestTimeout = 4 * time.Second

// A peer is a place of the network where "podapp probe" answers and asks. Methods may be called from any goroutine.
type peer struct {
	name  string
	addrs []netip.Addr // IPv4 first

	mu      sync.Mutex // guards the fields below
	orders  io.WriteCloser
	last    int
	waiting map[int]chan reply
	ended   error // set when it has ended
}

// An order and a reply are the probe's, see test/podapp.
type order struct {
	ID      int           `json:"id"`
	Do      string        `json:"do"`
	Network string        `json:"network,omitempty"`
	To      string        `json:"to,omitempty"`
	Name    string        `json:"name,omitempty"`
	Every   time.Duration `json:"every,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"`
	Flow    int           `json:"flow,omitempty"`
}

type reply struct {
	ID    int            `json:"id"`
	By    string         `json:"by"`
	Saw   netip.AddrPort `json:"saw"`
	Tries int            `json:"tries"`
	Addrs []string       `json:"addrs"`
	Flow  *flowed        `json:"flow"`
	Error string         `json:"error"`
}

type flowed struct {
	Asked, Answered, Steady int
	Gap                     time.Duration
}

// startPeer runs cmd, a "podapp probe", and returns when it answers.
func startPeer(lab *netlab.Lab, cmd *exec.Cmd, name string, addrs ...netip.Addr) (*peer, error) {
	p := &peer{name: name, addrs: addrs, waiting: map[int]chan reply{0: make(chan reply, 1)}}
	cmd.Env = append(os.Environ(), "POD_NAME="+name, "GOMAXPROCS=2", "GOMEMLIMIT=16MiB")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.orders = in
	if _, err := lab.Start(cmd); err != nil {
		return nil, err
	}
	ready := p.waiting[0]
	go p.listen(out)
	r, open := <-ready
	if !open {
		return nil, fmt.Errorf("start the probe %s: %w", name, p.ended)
	}
	if r.By != name {
		return nil, fmt.Errorf("start the probe %s: it says it is %q", name, r.By)
	}
	return p, nil
}

func (p *peer) listen(out io.Reader) {
	d := json.NewDecoder(bufio.NewReader(out))
	for {
		var r reply
		if err := d.Decode(&r); err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.ended = fmt.Errorf("probe ended: %w", err)
			for id, c := range p.waiting {
				close(c)
				delete(p.waiting, id)
			}
			return
		}
		p.mu.Lock()
		c := p.waiting[r.ID]
		delete(p.waiting, r.ID)
		p.mu.Unlock()
		if c != nil {
			c <- r
		}
	}
}

// tell gives an order and waits for the reply. Its error is also that of the request.
func (p *peer) tell(o order) (reply, error) {
	p.mu.Lock()
	if p.ended != nil {
		p.mu.Unlock()
		return reply{}, p.ended
	}
	p.last++
	o.ID = p.last
	c := make(chan reply, 1)
	p.waiting[o.ID] = c
	err := json.NewEncoder(p.orders).Encode(o)
	p.mu.Unlock()
	if err != nil {
		return reply{}, err
	}
	r, open := <-c
	switch {
	case !open:
		return r, p.ended
	case r.Error != "":
		return r, errors.New(r.Error)
	}
	return r, nil
}

// ask makes one request to an address and returns who answered and what address they saw.
func (p *peer) ask(network string, to netip.AddrPort) (reply, error) {
	return p.tell(order{Do: "ask", Network: network, To: to.String(), Timeout: requestTimeout})
}

// askInVain makes a request that nobody is to answer, and returns its error.
func (p *peer) askInVain(network string, to netip.AddrPort, atMost time.Duration) error {
	r, err := p.tell(order{Do: "ask", Network: network, To: to.String(), Timeout: atMost})
	if err == nil {
		return fmt.Errorf("%s answered", r.By) //nolint:nilerr // that is what is wrong
	}
	return err
}

// addr is the peer's address of a family.
func (p *peer) addr(f family) netip.Addr {
	for _, a := range p.addrs {
		if a.Is4() == (f == ipv4) {
			return a
		}
	}
	return netip.Addr{}
}

// A stream is a continuous flow of requests.
type stream struct {
	from    *peer
	id      int
	network string
	to      netip.AddrPort
}

// stream begins one.
func (p *peer) stream(network string, to netip.AddrPort) (*stream, error) {
	r, err := p.tell(order{Do: "flow", Network: network, To: to.String(), Every: streamEvery, Timeout: streamTimeout})
	return &stream{from: p, id: r.ID, network: network, to: to}, err
}

func (s *stream) String() string { return fmt.Sprintf("%s %s - %s", s.network, s.from.name, s.to) }

func (s *stream) do(verb string) (flowed, error) {
	r, err := s.from.tell(order{Do: verb, Flow: s.id, Timeout: streamTimeout})
	if err != nil {
		return flowed{}, err
	}
	return *r.Flow, nil
}
