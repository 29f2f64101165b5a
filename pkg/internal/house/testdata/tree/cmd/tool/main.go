package main

import _ "github.com/checkprocd/checkprocd/pkg/table"
