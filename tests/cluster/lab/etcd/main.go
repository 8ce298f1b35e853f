// etcd, built from its module: no distribution's package has the version that this Kubernetes wants.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
