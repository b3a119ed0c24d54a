package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"time"

	"github.com/nearpath/nearpath/internal/service/model"
	"github.com/nearpath/nearpath/test/netlab"
	"golang.org/x/sync/errgroup"
)

// A proxy serves Services in a network.
type proxy interface {
	// program returns when a world is what is served; nil: no Services.
	program(w *model.World) error
	// forget makes nothing of earlier connections known.
	forget() error
	close() error
}

// A side is a proxy at work in its own copy of the lab.
type side struct {
	proxy
	name    string
	dialect model.Dialect
	probers []*prober
	places  map[string]*prober
	// spent is time by what it went to.
	programming, probing time.Duration
}

// prepareSide starts the probers: cgroup is where the one of the node is, nil for no matter where.
func prepareSide(lab *netlab.Lab, s *side, n *network, cgroup *os.File) error {
	s.places = map[string]*prober{}
	for _, group := range []struct {
		places []string
		cgroup *os.File
	}{{inside, cgroup}, {outside, nil}} {
		p, err := startProber(lab, n, group.places, group.cgroup)
		if err != nil {
			return fmt.Errorf("start the probers of %s: %w", s.name, err)
		}
		s.probers = append(s.probers, p)
		for _, place := range group.places {
			s.places[place] = p
		}
	}
	return nil
}

// serve makes a world what is served.
func (s *side) serve(w *model.World) error {
	started := time.Now()
	defer func() { s.programming += time.Since(started) }()
	if err := s.program(w); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	if err := s.forget(); err != nil {
		return fmt.Errorf("%s: forget connections: %w", s.name, err)
	}
	return nil
}

// find has the probers find out all asks.
func (s *side) find(asks []ask, patience time.Duration) ([]seen, error) {
	started := time.Now()
	defer func() { s.probing += time.Since(started) }()
	results := make([]seen, len(asks))
	var group errgroup.Group
	for _, p := range s.probers {
		o := order{Patience: patience, Netfilter: s.dialect != model.Nearpath}
		var indexes []int
		for i, a := range asks {
			if s.places[a.Place] == p {
				o.Asks, indexes = append(o.Asks, a), append(indexes, i)
			}
		}
		if len(indexes) == 0 {
			continue
		}
		group.Go(func() error {
			r, err := p.ask(o)
			if err != nil {
				return fmt.Errorf("probe %s: %w", s.name, err)
			}
			for k, i := range indexes {
				results[i] = r[k]
			}
			return nil
		})
	}
	return results, group.Wait()
}

// A prober is a process that asks and answers at some places.
type prober struct {
	orders  *json.Encoder
	in      io.Closer
	replies *json.Decoder
}

func startProber(lab *netlab.Lab, n *network, places []string, cgroup *os.File) (*prober, error) {
	args := []string{proberVerb}
	for _, place := range places {
		args = append(args, spot{place, n.places[place].Path(), placesOf[place]}.String())
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Stderr = os.Stderr
	if cgroup != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	}
	p := &prober{}
	if err := p.connect(lab, cmd); err != nil {
		return nil, err
	}
	_, err := p.receive()
	return p, err
}

func (p *prober) connect(lab *netlab.Lab, cmd *exec.Cmd) error {
	in, out, err := pipes(lab, cmd)
	if err != nil {
		return err
	}
	p.orders, p.in, p.replies = json.NewEncoder(in), in, json.NewDecoder(bufio.NewReaderSize(out, 1<<20))
	return nil
}

// pipes starts a program of a lab and returns its input and output.
func pipes(lab *netlab.Lab, cmd *exec.Cmd) (in io.WriteCloser, out io.Reader, err error) {
	if in, err = cmd.StdinPipe(); err != nil {
		return nil, nil, err
	}
	if out, err = cmd.StdoutPipe(); err != nil {
		return nil, nil, err
	}
	_, err = lab.Start(cmd)
	return in, out, err
}

func (p *prober) ask(o order) ([]seen, error) {
	if err := p.orders.Encode(o); err != nil {
		return nil, err
	}
	r, err := p.receive()
	if err == nil && len(r.Seen) != len(o.Asks) {
		err = fmt.Errorf("%d answers to %d questions", len(r.Seen), len(o.Asks))
	}
	return r.Seen, err
}

func (p *prober) receive() (r reply, err error) {
	if err := p.replies.Decode(&r); err != nil {
		return r, fmt.Errorf("hear from a prober: %w", err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("prober: %s", r.Error)
	}
	return r, nil
}

// asksOf are the probes as questions to the probers.
func asksOf(probes []model.Probe, tries int) []ask {
	asks := make([]ask, len(probes))
	for i, p := range probes {
		asks[i] = ask{Place: placeOf(p.Client), To: p.To, UDP: p.Protocol == "UDP", Tries: tries}
	}
	return asks
}

// closeAll closes the latest first.
func closeAll(sides []*side) error {
	var group errgroup.Group
	for _, s := range slices.Backward(sides) {
		for _, p := range s.probers {
			p.in.Close()
		}
		group.Go(s.close)
	}
	return group.Wait()
}
