package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// The times of the Lease are those of Kubernetes' own controllers: another replica takes over 15 s after the last renewal,
// and a leader that cannot renew stops 5 s before that.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	leaseRetry    = 2 * time.Second
)

// An election is for one replica to write at a time. It saves calls: replicas that write at once disturb nobody.
type election struct {
	lock    resourcelock.Interface
	log     *slog.Logger
	leading chan bool // capacity 1: the latest word
}

func newElection(to *rest.Config, c leaseConfig, log *slog.Logger) (*election, error) {
	client, err := kubernetes.NewForConfig(to)
	if err != nil {
		return nil, fmt.Errorf("configure the Kubernetes client for leader election: %w", err)
	}
	return newElectionAt(client, c, log)
}

func newElectionAt(client kubernetes.Interface, c leaseConfig, log *slog.Logger) (*election, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("name this replica: %w", err)
	}
	return &election{
		lock: &resourcelock.LeaseLock{
			LeaseMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: c.Name}, Client: client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: host + "_" + string(uuid.NewUUID())},
		},
		log: log, leading: make(chan bool, 1),
	}, nil
}

// tell replaces a word that nobody has taken yet.
func (e *election) tell(leading bool) {
	for {
		select {
		case e.leading <- leading:
			return
		default:
		}
		select {
		case <-e.leading:
		default:
		}
	}
}

// run stands for election, again and again, until ctx ends; it gives a Lease back then.
func (e *election) run(ctx context.Context) error {
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: e.lock, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: leaseRetry, ReleaseOnCancel: true,
		Name: publisherComponent,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) { e.tell(true) },
			OnStoppedLeading: func() { e.tell(false) },
			OnNewLeader: func(identity string) {
				e.log.Info("a replica leads", "replica", identity, "this", identity == e.lock.Identity())
			},
		},
	})
	if err != nil {
		return fmt.Errorf("stand for election: %w", err)
	}
	for ctx.Err() == nil {
		elector.Run(ctx)
	}
	return nil
}

// An elected task runs beside an election and ends before it: nobody else is elected while it still writes.
type elected struct {
	task
	election *election
}

// Run runs both until ctx ends.
func (e *elected) Run(ctx context.Context) error {
	standing, resign := context.WithCancel(context.WithoutCancel(ctx))
	defer resign()
	resigned := make(chan error, 1)
	go func() { resigned <- e.election.run(standing) }()
	err := e.task.Run(ctx)
	resign()
	if electionErr := <-resigned; err == nil {
		err = electionErr
	}
	return err
}
