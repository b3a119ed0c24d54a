package externaldns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/nearpath/nearpath/internal/aliyun/sim"
	"github.com/nearpath/nearpath/test/kubeapi"
)

const (
	// region is where the alibabacloud provider believes all private zones to be.
	region = "cn-hangzhou"

	zoneID   = "0123456789abcdef0123456789abcdef"
	zoneName = "corp.example"
	owner    = "bench"
)

// A site is a simulated PrivateZone with its DNS, and a Kubernetes API.
type site struct {
	dir    string // for files
	cloud  *sim.Cloud
	cloudL net.Listener
	dns    string // "host:port"
	api    *kubeapi.Server
	apiURL string

	ctx    context.Context //nolint:containedctx // what runs until close
	stop   context.CancelFunc
	served []*http.Server
	names  chan error
}

// newSite starts one on loopback, with files below dir.
func newSite(dir, name string) (s *site, err error) {
	cfg := sim.DefaultConfig()
	cfg.RegionID = region
	cfg.PrivateZone.Zones = []sim.NewZone{{ID: zoneID, Name: zoneName, VPCs: []string{cfg.VPCID}}}
	cfg.PrivateZone.CommaInTXT = true // in what external-dns notes
	cfg.RateLimits = sim.PrivateZoneLimits(perSecond, 0)
	cfg.Latencies = sim.PrivateZoneLatencies(sim.Fixed(latency))
	s = &site{dir: filepath.Join(dir, name), api: kubeapi.New(), names: make(chan error, 1)}
	s.ctx, s.stop = context.WithCancel(context.Background())
	if s.cloud, err = sim.New(cfg); err != nil {
		return nil, err
	}
	if s.cloudL, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	s.serve(s.cloudL, s.cloud.Handler())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.serve(l, s.api)
	s.apiURL = "http://" + l.Addr().String()
	names, err := s.cloud.PrivateZone().Resolver(cfg.VPCID).Listen(s.ctx, "dns", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.dns = names.Addr().String()
	go func() { s.names <- names.Run(s.ctx) }()
	return s, nil
}

func (s *site) serve(l net.Listener, h http.Handler) {
	server := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	s.served = append(s.served, server)
	go func() { _ = server.Serve(l) }() // until Close
}

func (s *site) close() error {
	s.stop()
	errs := []error{<-s.names}
	for _, server := range s.served {
		errs = append(errs, server.Close())
	}
	return errors.Join(append(errs, s.cloud.Close())...)
}

// resolves asks the DNS of the VPC.
func (s *site) resolves(ctx context.Context, host, address string) bool {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, s.dns)
	}}
	got, err := resolver.LookupHost(ctx, host+".")
	return err == nil && len(got) == 1 && got[0] == address
}

// mark is the number of the last call.
func (s *site) mark() int {
	log := s.cloud.CallLog(0)
	if len(log) == 0 {
		return 0
	}
	return log[len(log)-1].Seq
}

// tally counts calls.
type tally struct {
	all, reads, adds, updates, deletes, throttled int
}

func (s *site) since(mark int) (n tally) {
	for _, call := range s.cloud.CallLog(mark) {
		n.all++
		switch call.Action {
		case "AddZoneRecord":
			n.adds++
		case "UpdateZoneRecord", "UpdateRecordRemark":
			n.updates++
		case "DeleteZoneRecord":
			n.deletes++
		default:
			n.reads++
		}
		if len(call.Code) > 0 && call.Code[0] == 'T' {
			n.throttled++
		}
	}
	return n
}

func (n tally) writes() int { return n.adds + n.updates + n.deletes }

// quiet waits until no call has ended for a pause, but at least enough of them since a mark. Alive says why there will be
// none any more.
func (s *site) quiet(ctx context.Context, mark, enough int, alive func() error) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last, since := -1, time.Now()
	for began := time.Now(); ; {
		if n := s.since(mark).all; n != last {
			last, since = n, time.Now()
		}
		if last >= enough && time.Since(since) > pause {
			return nil
		}
		if err := alive(); err != nil {
			return err
		}
		if time.Since(began) > 10*time.Minute {
			return fmt.Errorf("calls go on after 10 minutes: %+v", s.since(mark))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}
