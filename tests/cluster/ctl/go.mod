module pilothouse.dev/tests/cluster/ctl

go 1.26.0
